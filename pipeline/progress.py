"""Progress with a rate and an ETA: a bar on a terminal, a line every LOG_INTERVAL seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

LOG_INTERVAL = 30.0  # seconds between two lines if stderr is not a terminal


class Progress:
    """Counts what is done out of `total`; used as a context. Goes to stderr, so that stdout holds only results."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self.note = 0, ""
        self._start = self._told = time.monotonic()
        self._bar = tqdm(total=total, desc=label, unit=f" {unit}", dynamic_ncols=True) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._tell()

    def advance(self, count: int, note: str = "") -> None:
        """`count` more are done; 0 to only let time pass. The note is what there is to say now."""
        self.done += count
        self.note = note
        if self._bar is not None:
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._told >= LOG_INTERVAL:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        seconds = self._told - self._start
        rate = self.done / seconds if seconds else 0.0
        left = f", {(self.total - self.done) / rate:.0f} s left" if rate and self.done < self.total else ""
        note = f", {self.note}" if self.note else ""
        print(
            f"{self.label}: {self.done}/{self.total} {self.unit}, {rate:.2f}/s, {seconds:.0f} s{left}{note}",
            file=sys.stderr,
            flush=True,
        )
