"""The log of a run in its store: the events that are not in commits, and the present state.

    runs/<run id>.jsonl      {"time": ..., "run": ..., "event": "attempt failed", "unit": ..., ...}
    runs/<run id>.json       {"time": ..., "run": ..., "ended": null, "workers": ..., "waits_for": ..., ...}

An object store cannot append, so the files are rewritten at intervals. The first has only the errors, the beginning and
the end of the run, not a line per unit. The second shows that the driver is alive. If the log cannot be written, the
run prints one note and continues.
"""

import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from pipeline.io.errors import StorageError
from pipeline.store.errors import StoreError
from pipeline.store.store import Store

WRITE_INTERVAL = 10.0  # seconds
STATE_FIELDS = {
    "run",
    "host",
    "time",
    "ended",
    "workers",
    "starting",
    "queued",
    "at_work",
}  # required in runs/<run id>.json
STARTING: dict[str, Any] = {"queued": 0, "workers": 0, "starting": 0, "waits_for": None, "at_work": []}


class RunLog:
    """The log of a run, which is a `with` block. A call with an event and its fields logs the event.

    `state` is a function that returns the present state of the run, such as Pool.state.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.state: Callable[[], dict[str, Any]] = lambda: STARTING
        self.run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        self._lines: list[str] = []
        self._last = float("-inf")
        self._failed = False

    def __enter__(self) -> Self:
        self("run began", host=socket.gethostname(), pid=os.getpid())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self("run ended", **({"error": kind.__name__, "message": str(error)} if kind else {}))
        self._write(f"{kind.__name__}: {error}" if kind else "all that could be done is done")

    def __call__(self, event: str, **about: Any) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "run": self.run, "event": event, **about}
        self._lines.append(json.dumps(line, ensure_ascii=False))
        self.tick()

    def tick(self) -> None:
        """Write the files if WRITE_INTERVAL has passed since the last write."""
        if time.monotonic() - self._last >= WRITE_INTERVAL:
            self._write()

    def _write(self, ended: str | None = None) -> None:
        about = {"run": self.run, "host": socket.gethostname(), "time": time.time(), "ended": ended, **self.state()}
        try:
            self.store.put(f"runs/{self.run}.jsonl", "".join(line + "\n" for line in self._lines).encode())
            self.store.put(f"runs/{self.run}.json", json.dumps(about).encode())
        except StorageError as error:
            if not self._failed:
                print(f"note: the log of this run is not written: {error}", file=sys.stderr)
            self._failed = True
        self._last = time.monotonic()


def last_state(store: Store) -> dict[str, Any] | None:
    """Return the last state of the latest run with a valid file; None if there is none."""
    for path in sorted((path for path in store.names("runs") if path.endswith(".json")), reverse=True):
        try:
            state = store.get_json(path)
        except StoreError:
            continue
        if isinstance(state, dict) and state.keys() >= STATE_FIELDS and isinstance(state["time"], int | float):
            return state
    return None
