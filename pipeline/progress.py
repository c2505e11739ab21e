"""Progress with a rate and the time that remains: a bar on a terminal, and otherwise a line every LOG_INTERVAL."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

LOG_INTERVAL = 30.0  # seconds between two lines if stderr is not a terminal


class Progress:
    """A context that shows how many of `total` are done. It prints to stderr, so that stdout has only results."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self.note = 0, ""
        self._start = self._printed = time.monotonic()
        self._bar = tqdm(total=total, desc=label, unit=f" {unit}", dynamic_ncols=True) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._print()

    def advance(self, count: int, note: str = "") -> None:
        """Add `count` to the number that is done; 0 only updates the time. `note` is printed at the end of the line."""
        self.done += count
        self.note = note
        if self._bar is not None:
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._printed >= LOG_INTERVAL:
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        seconds = self._printed - self._start
        parts = [f"{self.label}: {self.done}/{self.total} {self.unit}"]
        rate = self.done / seconds if seconds else 0.0
        if rate:  # The rate is unknown until something is done.
            parts.append(f"{rate:.2f}/s")
        parts.append(f"{seconds:.0f} s")
        if rate and self.done < self.total:
            parts.append(f"{(self.total - self.done) / rate:.0f} s left")
        if self.note:
            parts.append(self.note)
        print(", ".join(parts), file=sys.stderr, flush=True)
