"""The journal of a run: what happened that no commit tells of, as JSON lines in the store.

    runs/<run id>.jsonl      {"time": ..., "run": ..., "event": "attempt failed", "unit": ..., ...}

An object store cannot append, so the file is written anew now and then: it holds only what went wrong and the run's
beginning and end, never a line a unit.
"""

import json
import os
import secrets
import socket
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from pipeline.store import Store

EVERY = 30.0  # seconds between two writes


class Journal:
    """Called with an event and what there is to say of it; used as a context, which is the run."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        self._lines: list[str] = []
        self._written = 0
        self._last = float("-inf")

    def __enter__(self) -> Self:
        self("run began", host=socket.gethostname(), pid=os.getpid())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self("run ended", **({"error": kind.__name__, "message": str(error)} if kind else {}))
        self._write()

    def __call__(self, event: str, **about: Any) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "run": self.run, "event": event, **about}
        self._lines.append(json.dumps(line, ensure_ascii=False))
        self.tick()

    def tick(self) -> None:
        """Write what is not written yet, if the last write is long enough ago."""
        if time.monotonic() - self._last >= EVERY:
            self._write()

    def _write(self) -> None:
        if self._written < len(self._lines):
            self.store.put(f"runs/{self.run}.jsonl", "".join(line + "\n" for line in self._lines).encode())
            self._written, self._last = len(self._lines), time.monotonic()
