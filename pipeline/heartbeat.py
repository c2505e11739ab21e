"""Heartbeats: a worker counts its own progress, and the driver distinguishes slow work from a hang by that count.

A worker process has one Heartbeat. The code that works calls `beat(activity)` as each small piece of work begins: a
network call, an image, a request to storage. A reader of the report does not need to know how long a unit takes.
"""

import threading
import time
from dataclasses import dataclass

LOADING = "loading the model"
WORK = "a unit"
STORAGE = "reading or writing storage"
IMAGE = "decoding an image"
NETWORK = "a network call"
TEXT = "encoding captions"
AUTOENCODER = "the autoencoder"
_IDLE = "waiting for a unit"
_PREFETCH = "waiting for what is read ahead"

_UNTIMED = (LOADING, STORAGE, _IDLE)  # these say nothing about how long a piece of work takes


@dataclass(frozen=True)
class Report:
    """`beats` so far, the `activity` that began with the last one, and the `longest` pause between two, in seconds.

    The pauses of loading and of storage are left out of `longest`; 0 means that none was measured yet.
    """

    beats: int
    activity: str
    longest: float


class Heartbeat:
    """The progress of one working thread, and of the threads that read ahead for it.

    A beat of another thread counts only while the working thread waits for it. Otherwise reading would hide a network
    call that hangs.
    """

    def __init__(self) -> None:
        self.own()

    def own(self) -> None:
        """Make the calling thread the working thread, and start to count."""
        self._owner = threading.get_ident()
        self._activity, self._ahead, self._waits = LOADING, STORAGE, False
        self._beats, self._longest, self._last = 0, 0.0, time.monotonic()

    def beat(self, activity: str) -> None:
        """Say that a piece of `activity` begins, and that the one before is done."""
        if threading.get_ident() != self._owner:
            self._ahead = activity
            if self._waits:
                self._count()
            return
        self._count()
        self._activity, self._waits = activity, False

    def idle(self) -> None:
        """Say that the unit is done."""
        self.beat(_IDLE)

    def prefetching(self) -> None:
        """Say that the working thread waits for those that read ahead, until its own next beat."""
        self.beat(_PREFETCH)
        self._waits = True

    def report(self) -> Report:
        """Return the progress so far; any thread may call this."""
        return Report(self._beats, self._ahead if self._waits else self._activity, self._longest)

    def _count(self) -> None:
        now = time.monotonic()
        if (self._ahead if self._waits else self._activity) not in _UNTIMED:
            self._longest = max(self._longest, now - self._last)
        self._last = now
        self._beats += 1


HEARTBEAT = Heartbeat()
"""The heartbeat of this process."""

beat = HEARTBEAT.beat
