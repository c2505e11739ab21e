"""Keeping the ledger: when a block of units is done, its commits are repeated in one file, while the run goes on."""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from pipeline.store.store import BLOCK, JobKey, Store


class CheckpointWriter:
    """Used as a context, which is the run. What cannot be written is raised at its end, when all units are safe."""

    def __init__(self, store: Store, units: int, pending: Iterable[str], key: JobKey) -> None:
        """`pending` are those of the store's units that are not done. The last block, if not full, is not kept."""
        self._store, self._key = store, key
        self._missing = Counter(int(unit) // BLOCK for unit in pending)
        self._whole = units // BLOCK
        self._thread = ThreadPoolExecutor(1)
        self._writing = list[Future[None]]()
        compacted = store.compacted(key) if self._whole else ()
        for block in range(self._whole):
            if not self._missing[block] and block not in compacted:
                self._compact(block)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for writing in self._writing:
                writing.result()

    def done(self, unit: str) -> None:
        """A pending unit is done."""
        block = int(unit) // BLOCK
        self._missing[block] -= 1
        if not self._missing[block] and block < self._whole:
            self._compact(block)

    def _compact(self, block: int) -> None:
        self._writing.append(self._thread.submit(self._store.compact, block, self._key))
