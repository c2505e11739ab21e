"""Reading ahead: load the next unit while the model processes the present one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from pipeline.store.plan import Unit
from pipeline.workers.heartbeat import HEARTBEAT

Loaded = TypeVar("Loaded")


class Prefetcher(Generic[Loaded]):
    """Loads units in a thread of its own, one unit ahead of the model."""

    def __init__(self, load: Callable[[Unit], Loaded]) -> None:
        self._load = load
        self._thread = ThreadPoolExecutor(1)
        self._loading: dict[str, Future[Loaded]] = {}

    def take(self, unit: Unit, next_unit: Unit | None) -> Loaded:
        """Return the loaded `unit`, after waiting for it if needed, and begin to load `next_unit`."""
        current = self._loading.pop(unit.unit, None) or self._thread.submit(self._load, unit)
        self._loading = {next_unit.unit: self._thread.submit(self._load, next_unit)} if next_unit else {}
        HEARTBEAT.prefetching()
        return current.result()
