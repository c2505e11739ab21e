"""The driver's side of the work: a queue of units, a pool of Ray actors, attempts, replacements and time limits.

Ray restarts nothing by itself here (max_restarts=0, max_task_retries=0), because a sample that kills its worker would
then be tried for ever. The driver decides, and carries no data: a worker writes its own files and its own commit.

What becomes of a unit whose worker dies, hangs or raises: it is tried on another worker; then it is halved, and what
kills, hangs or raises again is halved again, down to single samples; then the unit is processed without those, and
they are its rejects. A worker that goes with its node takes no blame with it: that is no attempt.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from pipeline.errors import JobError
from pipeline.plan import Unit
from pipeline.work import Fault

ATTEMPTS = 3  # of a unit, each on another worker; before the last one it is halved in search of a culprit
LOSSES = 10  # of nodes under a unit, that are no attempts; more are the unit's own doing (it fills its host's memory)
STARTS = 3  # workers in a row, all at once at least, that fail before they are ready
FAILURES = 5  # units in a row that fail for good
SLOWER = 10  # a unit hangs that takes so many times what the slowest took so far, a sample, ...
AT_LEAST = 300.0  # ... and no less than so many seconds
UNMEASURED = 6 * 3600.0  # seconds for a unit while none is done, and nothing is known of the rate

Record = Callable[..., None]
"""Takes note of an event: its name, and what there is to say of it."""


class WorkersFailed(JobError):
    """The run is hopeless: no worker starts, or one unit after the other fails; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What became of a unit: the worker's result, or after ATTEMPTS of them the last error."""

    unit: Unit
    result: Any = None
    error: str | None = None


@dataclass
class _Work:
    """A unit on its way. `suspects` are the slices (first, count) to be tried alone before the unit as a whole is.

    `apart`: its worker failed, or the one that was reading it ahead, and which of the two it was nobody knows. From
    then on it is neither read ahead nor is another unit while it is worked on.
    """

    unit: Unit
    attempts: int = 0
    losses: int = 0
    apart: bool = False
    suspects: list[tuple[int, int]] = field(default_factory=list)
    poison: dict[int, Fault] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The samples that are worked on next."""
        return self.suspects[-1][1] if self.suspects else self.unit.count


@dataclass
class _Slot:
    """A worker: on which node (None while it starts), and since when it is at which work; what it may read ahead.

    `nodes` were alive when it was asked for.
    """

    actor: Any
    nodes: frozenset[str]
    node: str | None = None
    work: _Work | None = None
    ahead: _Work | None = None
    since: float = 0.0


class Pool:
    """`worker(task)` is made once an actor, `count` of them at most, as the cluster has room.

    For each unit `process(unit, number, ahead, poison)` is called, with the samples to leave out by their place in the
    unit, and in search of them `probe(unit, number)` with a slice of the unit, where the worker has such a method.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        worker: type,
        task: Any,
        *,
        count: int,
        cpus: float,
        gpus: float,
        record: Record = lambda event, **about: None,
    ) -> None:
        options: Any = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": 1}
        self._actor: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, **options)(worker)
        self._probes = hasattr(worker, "probe")
        self._task, self._record = task, record
        self._queue = deque(_Work(unit) for unit in units)
        self._count = min(count, len(units))
        self._slots: dict[ray.ObjectRef, _Slot] = {}
        self._failed_starts = self._failed_units = 0
        self._slowest = 0.0  # seconds a sample, of the units that were done

    def outcomes(self) -> Iterator[Outcome | None]:
        """Outcomes as they come, in no order; None about every second while there is nothing to tell.

        Raises WorkersFailed when actors cannot be started or FAILURES units in a row fail.
        """
        try:
            for _ in range(self._count):
                self._start()
            # workers that the cluster has no room for yet are not waited for once there is nothing left to give them
            while self._queue or any(slot.work for slot in self._slots.values()):
                done, _ = ray.wait(list(self._slots), num_returns=1, timeout=1.0)
                ended = done or self._hung()
                if not ended:
                    yield None
                for ref in ended:
                    outcome = self._ended(ref, hung=not done)
                    if outcome is not None:
                        yield outcome
        finally:
            for slot in self._slots.values():
                ray.kill(slot.actor)

    def state(self) -> dict[str, Any]:
        """What goes on: the units that wait, the workers that are ready and that start, and what is at work where."""
        now = time.time() - time.monotonic()
        slots = self._slots.values()
        return {
            "queued": len(self._queue) + sum(slot.ahead is not None for slot in slots),
            "workers": sum(slot.node is not None for slot in slots),
            "starting": sum(slot.node is None for slot in slots),
            "at_work": [
                {"unit": slot.work.unit.unit, "samples": slot.work.size, "node": slot.node, "since": now + slot.since}
                for slot in slots
                if slot.work
            ],
        }

    def _start(self) -> None:
        actor = self._actor.remote(self._task)
        self._slots[actor.ready.remote()] = _Slot(actor, _alive())

    def _give(self, slot: _Slot) -> None:
        """The next unit, or a slice of one that is searched, for a worker that is ready; the end where none is left."""
        work, slot.ahead = slot.ahead or (self._queue.popleft() if self._queue else None), None
        if work is None:
            ray.kill(slot.actor)
            return
        # what one worker reads ahead no other can take, so near the end nothing is read ahead
        if len(self._queue) >= self._count and not work.apart and not self._queue[0].apart:
            slot.ahead = self._queue.popleft()
        slot.work, slot.since = work, time.monotonic()
        number = work.attempts + work.losses + 1
        if work.suspects:
            ref = slot.actor.probe.remote(work.unit.slice(*work.suspects[-1]), number)
        else:
            ahead = slot.ahead.unit if slot.ahead else None
            ref = slot.actor.process.remote(work.unit, number, ahead, work.poison)
        self._slots[ref] = slot

    def _hung(self) -> list[ray.ObjectRef]:
        now = time.monotonic()
        return [ref for ref, slot in self._slots.items() if slot.work and now - slot.since > self._limit(slot.work)]

    def _limit(self, work: _Work) -> float:
        return max(AT_LEAST, SLOWER * self._slowest * work.size) if self._slowest else UNMEASURED

    def _ended(self, ref: ray.ObjectRef, *, hung: bool) -> Outcome | None:
        """Take what a worker has to say, or end it where it hangs, and go on; the outcome where a unit has one now."""
        slot = self._slots.pop(ref)
        work, slot.work = slot.work, None
        try:
            if hung:
                raise TimeoutError
            result = ray.get(ref)
        except (RayError, TimeoutError) as error:
            # a task that raised may have left its process damaged (CUDA does): both get a new actor
            ray.kill(slot.actor)
            if slot.ahead is not None:
                slot.ahead.apart = True
                self._queue.appendleft(slot.ahead)
            outcome = None
            if work is None:
                self._not_started(slot, error)
            else:
                outcome = self._failed(slot, work, error)
            if self._queue:
                self._start()
            return outcome
        self._failed_starts = 0
        outcome = None
        if work is None:
            slot.node = result
        else:
            outcome = self._done(slot, work, result)
        self._give(slot)
        return outcome

    def _done(self, slot: _Slot, work: _Work, result: Any) -> Outcome | None:
        if work.suspects:
            work.suspects.pop()
            self._queue.appendleft(work)
            return None
        self._slowest = max(self._slowest, (time.monotonic() - slot.since) / work.unit.count)
        self._failed_units = 0
        return Outcome(work.unit, result)

    def _not_started(self, slot: _Slot, error: Exception) -> None:
        self._record("worker not started", error=cause(error))
        if slot.nodes <= _alive() and not isinstance(error, ActorUnavailableError):  # or else it went with its node
            self._failed_starts += 1
        # those that start together fail together
        if self._failed_starts >= max(STARTS, self._count):
            raise WorkersFailed(f"{self._failed_starts} workers in a row could not start: {cause(error)}") from error

    def _failed(self, slot: _Slot, work: _Work, error: Exception) -> Outcome | None:
        """Put a unit back whose worker failed, with what there is to try next; the outcome where that was all."""
        fault = _fault(error, time.monotonic() - slot.since)
        work.apart = True
        about = {"unit": work.unit.unit, "source": work.unit.source, "error": fault.error, "message": fault.message}
        if _lost(error, slot) and work.losses < LOSSES:
            work.losses += 1
            self._record("node lost", **about)
        elif work.suspects:
            first, count = work.suspects.pop()
            if count > 1:
                work.suspects += _halves(first, count)
            else:
                work.poison[first] = fault
                self._record("sample named", **about, row=first)
        else:
            work.attempts += 1
            self._record("attempt failed", **about, attempt=work.attempts)
            if work.attempts >= ATTEMPTS:
                return self._given_up(work, fault, error)
            # what a worker says of its input, its store or its model is no sample's fault
            if work.attempts == ATTEMPTS - 1 and self._probes and not isinstance(_origin(error), JobError):
                work.suspects = _halves(0, work.unit.count)
        self._queue.appendleft(work)
        return None

    def _given_up(self, work: _Work, fault: Fault, error: Exception) -> Outcome:
        self._failed_units += 1
        said = f"{fault.error}: {fault.message}"
        if self._failed_units >= FAILURES:
            raise WorkersFailed(
                f"{FAILURES} units in a row failed, each {ATTEMPTS} times, and nothing more is tried; "
                f"the last, unit {work.unit.unit} of {work.unit.source}: {said}"
            ) from error
        return Outcome(work.unit, error=said)


def _halves(first: int, count: int) -> list[tuple[int, int]]:
    """The two halves of a slice, the earlier one last; a slice of one sample is its own."""
    half = count // 2
    return [(first + half, count - half)] + ([(first, half)] if half else [])


def _lost(error: Exception, slot: _Slot) -> bool:
    """Whether the worker went with its node. One that cannot be reached went so, until it is known to have died."""
    if isinstance(error, ActorUnavailableError):
        return True
    return isinstance(error, RayActorError) and slot.node not in _alive()


def _alive() -> frozenset[str]:
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


def _fault(error: Exception, seconds: float) -> Fault:
    if isinstance(error, TimeoutError):
        return Fault("WorkerHung", f"was not done after {seconds:.0f} s, {SLOWER} times what the slowest unit took")
    if isinstance(error, RayActorError):
        return Fault("WorkerDied", f"killed its worker ({_last_line(error)})")
    origin = _origin(error)
    return Fault(type(origin).__name__, _last_line(origin))


def cause(error: Exception) -> str:
    """What happened on the worker, in a line."""
    origin = _origin(error)
    return f"{type(origin).__name__}: {_last_line(origin)}"


def _origin(error: Exception) -> Exception:
    """The worker's own exception where there is one, or else what Ray says."""
    return error.cause if isinstance(error, RayTaskError) else error


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
