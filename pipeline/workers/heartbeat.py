"""Heartbeats: a worker counts its own progress, and the driver distinguishes slow work from a hang by that count.

A worker process has one Heartbeat. Its code calls `beat(activity)` when a small piece of work begins: a network call,
an image, a request to storage. So the driver can detect a hang without knowing how long a unit takes.
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
_PREFETCH = "waiting for a unit that is read ahead"

_UNTIMED = (LOADING, STORAGE, _IDLE)  # their pauses do not show how long a piece of work takes


@dataclass(frozen=True)
class Report:
    """`beats` so far, the `activity` that began with the last one, and the `longest` pause between two, in seconds.

    `longest` does not include pauses in loading and in storage; it is 0 if no pause was measured yet.
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
        """Make the calling thread the working thread, and start counting."""
        self._owner = threading.get_ident()
        self._activity, self._ahead, self._waits = LOADING, STORAGE, False
        self._beats, self._longest, self._last = 0, 0.0, time.monotonic()

    def beat(self, activity: str) -> None:
        """Count a beat: a piece of `activity` begins, and the one before is done."""
        if threading.get_ident() != self._owner:
            self._ahead = activity
            if self._waits:
                self._count()
            return
        self._count()
        self._activity, self._waits = activity, False

    def idle(self) -> None:
        """Count a beat: the unit is done."""
        self.beat(_IDLE)

    def prefetching(self) -> None:
        """Count the beats of the threads that read ahead too, until the working thread's next beat."""
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
