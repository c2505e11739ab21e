"""The driver's side of the work: a queue of units, a pool of Ray actors, attempts, replacements and time limits.

Ray restarts nothing by itself here (max_restarts=0, max_task_retries=0), because a sample that kills its worker would
then be tried for ever. The driver decides, and carries no data: a worker writes its own files and its own commit.

What becomes of a unit whose worker dies, hangs or raises: it is tried on another worker; then it is halved, and what
kills, hangs or raises again is halved again, down to single samples; then the unit is processed without those, and
they are its rejects. A worker that goes with its node takes no blame with it: that is no attempt.

A worker counts as hanging if its heartbeat (pipeline.workers.heartbeat) does not change for a time, however long its
unit takes. The driver polls the heartbeats. Time in which the driver did not poll does not count.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from pipeline.errors import JobError
from pipeline.messages import Fault, Machine, ModelFault
from pipeline.store.plan import Unit
from pipeline.workers.actor import WorkerActor
from pipeline.workers.heartbeat import LOADING, STORAGE, WORK, Report
from schemas.errors import last_line

MAX_ATTEMPTS = 3  # of a unit, each on another worker; before the last one it is halved in search of a culprit
MAX_NODE_LOSSES = (
    10  # of nodes under a unit, that are no attempts; more are the unit's own doing (it fills its host's memory)
)
MAX_FAILED_STARTS = 3  # workers in a row, all at once at least, that fail before they are ready
MAX_FAILED_UNITS = 5  # units in a row that fail for good

# A worker counts as hanging if its heartbeat does not change for longer than a limit. The limit is SLOWER times the
# longest pause between two heartbeats in this run, and at least AT_LEAST seconds.
HANG_FACTOR = 10
MIN_HANG_SECONDS = 300.0
MIN_STORAGE_HANG_SECONDS = 1800.0  # instead of AT_LEAST in storage: requests have a time limit and retries of their own
FIRST_HANG_SECONDS = 6 * 3600.0  # seconds; the limit while no pause was measured
MAX_LOADING_SECONDS = 3600.0  # seconds; the limit until a worker is ready, because it may download the model
POLL = 5.0  # seconds between two polls of a worker's heartbeat

WAIT = 1.0  # seconds to wait for a worker before other work of the driver is done

WAITING_AFTER = 10.0  # seconds without a worker after which the state says which resources the cluster lacks

Record = Callable[..., None]
"""Takes note of an event: its name, and what there is to say of it."""


class WorkersFailed(JobError):
    """The run is hopeless: no worker starts, or one unit after the other fails; the message says why."""


class WorkerHung(Exception):
    """A worker's heartbeat did not change for too long, in this activity."""

    def __init__(self, activity: str, seconds: float) -> None:
        super().__init__(f"no progress for {seconds:.0f} s in {activity}")
        self.activity = activity


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
    node_losses: int = 0
    apart: bool = False
    suspects: list[tuple[int, int]] = field(default_factory=list)
    excluded: dict[int, Fault] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The samples that are worked on next."""
        return self.suspects[-1][1] if self.suspects else self.unit.count


SILENT = Report(-1, LOADING, 0.0)


@dataclass
class _Slot:
    """A worker: its node, its present work and when that began, and the unit that it reads ahead.

    `node` is None until Ray has started it. `nodes` were alive when it was requested. `silent` is the number of seconds
    since its heartbeat last changed. `poll` is the pending poll of the heartbeat, which began at `polled`.
    """

    actor: Any
    nodes: frozenset[str]
    since: float
    node: str | None = None
    ready: bool = False
    work: _Work | None = None
    ahead: _Work | None = None
    silent: float = 0.0
    report: Report = SILENT
    poll: ray.ObjectRef | None = None
    polled: float = 0.0


class Pool:
    """`worker(task)` is made in at most `count` actors, as resources of the cluster become free.

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
        machine: Machine,
        record: Record = lambda event, **about: None,
    ) -> None:
        options: Any = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": 1}
        options["concurrency_groups"] = {"heartbeat": 1}
        host = type(worker.__name__, (WorkerActor,), {})  # so that processes and Ray's dashboard show the worker's name
        self._actor: Any = ray.remote(num_cpus=machine.threads, num_gpus=machine.gpus, **options)(host)
        self._packed = WorkerActor.pack(worker, task)
        self._probes = hasattr(worker, "probe")
        self._record = record
        self._each = {"CPU": machine.threads, "GPU": machine.gpus}
        self._queue = deque(_Work(unit) for unit in units)
        self._count = min(count, len(units))
        self._slots: dict[ray.ObjectRef, _Slot] = {}
        self._failed_starts = self._failed_units = 0
        self._done_units = 0
        self._longest = 0.0  # seconds between two heartbeats of any worker so far
        self._listened = time.monotonic()

    def outcomes(self) -> Iterator[Outcome | None]:
        """Outcomes as they come, in no order; None about every second while there is nothing to tell.

        Raises WorkersFailed if actors cannot be started, if FAILURES units in a row fail, or if the model fails before
        a unit is done.
        """
        try:
            for _ in range(self._count):
                self._start()
            # workers that the cluster has no room for yet are not waited for once there is nothing left to give them
            while self._queue or any(slot.work for slot in self._slots.values()):
                done, _ = ray.wait(list(self._slots), num_returns=1, timeout=WAIT)
                if not done:
                    yield None
                for ref, error in [*((ref, None) for ref in done), *self._listen()]:
                    outcome = self._ended(ref, error) if ref in self._slots else None
                    if outcome is not None:
                        yield outcome
        finally:
            for slot in self._slots.values():
                ray.kill(slot.actor)

    def state(self) -> dict[str, Any]:
        """Return the counts of queued units and of ready and starting workers, and the units in progress.

        `waits_for` says in words why no unit is in progress, or is None.
        """
        now = time.time() - time.monotonic()
        slots = self._slots.values()
        return {
            "queued": len(self._queue) + sum(slot.ahead is not None for slot in slots),
            "workers": sum(slot.ready for slot in slots),
            "starting": sum(not slot.ready for slot in slots),
            "waits_for": self._waits_for(),
            "at_work": [
                {"unit": slot.work.unit.unit, "samples": slot.work.size, "node": slot.node, "since": now + slot.since}
                for slot in slots
                if slot.work
            ],
        }

    def _waits_for(self) -> str | None:
        slots = self._slots.values()
        if not slots or any(slot.ready for slot in slots):
            return None
        if loading := sum(slot.node is not None for slot in slots):
            return f"loading the model on {loading} worker{'s' if loading > 1 else ''}"
        seconds = time.monotonic() - min(slot.since for slot in slots)
        if seconds < WAITING_AFTER:
            return "starting workers"
        free = ray.available_resources()
        each = " and ".join(f"{amount:g} {name}" for name, amount in self._each.items() if amount)
        has = " and ".join(f"{free.get(name, 0):g} {name}" for name, amount in self._each.items() if amount)
        return f"no worker for {seconds:.0f} s: each needs {each}, and the cluster has {has} free"

    def _start(self) -> None:
        actor = self._actor.remote(self._packed)
        self._slots[actor.node.remote()] = _Slot(actor, _alive(), time.monotonic())

    def _give(self, slot: _Slot) -> None:
        """The next unit, or a slice of one that is searched, for a worker that is ready; the end where none is left."""
        work, slot.ahead = slot.ahead or (self._queue.popleft() if self._queue else None), None
        if work is None:
            ray.kill(slot.actor)
            return
        # what one worker reads ahead no other can take, so near the end nothing is read ahead
        if len(self._queue) >= self._count and not work.apart and not self._queue[0].apart:
            slot.ahead = self._queue.popleft()
        slot.work, slot.since, slot.silent = work, time.monotonic(), 0.0
        slot.report = replace(slot.report, activity=WORK)
        number = work.attempts + work.node_losses + 1
        if work.suspects:
            ref = slot.actor.call.remote("probe", work.unit.slice(*work.suspects[-1]), number)
        else:
            ahead = slot.ahead.unit if slot.ahead else None
            ref = slot.actor.call.remote("process", work.unit, number, ahead, work.excluded)
        self._slots[ref] = slot

    def _listen(self) -> list[tuple[ray.ObjectRef, WorkerHung]]:
        """Poll the heartbeats, and return the workers that hang."""
        now = time.monotonic()
        if now - self._listened < POLL / 5:
            return []
        # Time in which the driver itself was busy or stopped does not count.
        passed, self._listened = min(now - self._listened, POLL + WAIT), now
        placed = {ref: slot for ref, slot in self._slots.items() if slot.node is not None}
        polls = [slot.poll for slot in placed.values() if slot.poll is not None]
        answered = set(ray.wait(polls, num_returns=len(polls), timeout=0)[0]) if polls else set()
        silent = []
        for ref, slot in placed.items():
            slot.silent += passed
            if slot.poll is not None and slot.poll in answered:
                self._heard(slot, slot.poll)
            if slot.poll is None and now - slot.polled >= POLL:
                slot.poll, slot.polled = slot.actor.heartbeat.remote(), now
            if slot.silent > self._limit(slot) and not ray.wait([ref], timeout=0)[0]:
                silent.append((ref, WorkerHung(slot.report.activity, slot.silent)))
        return silent

    def _heard(self, slot: _Slot, poll: ray.ObjectRef) -> None:
        try:
            report: Report = ray.get(poll)
        except RayError:  # the pending call reports a death, and a broken connection counts as silence
            return
        finally:
            slot.poll = None
        if report.beats != slot.report.beats:
            slot.report, slot.silent = report, 0.0
            self._longest = max(self._longest, report.longest)

    def _limit(self, slot: _Slot) -> float:
        if not slot.ready:
            return MAX_LOADING_SECONDS
        if not self._longest:
            return FIRST_HANG_SECONDS
        return max(
            MIN_STORAGE_HANG_SECONDS if slot.report.activity == STORAGE else MIN_HANG_SECONDS,
            HANG_FACTOR * self._longest,
        )

    def _ended(self, ref: ray.ObjectRef, silent: WorkerHung | None) -> Outcome | None:
        """Take what a worker has to say, or end it where it hangs, and go on; the outcome where a unit has one now."""
        slot = self._slots.pop(ref)
        work, slot.work = slot.work, None
        try:
            if silent is not None:
                raise silent
            result = ray.get(ref)
        except (RayError, WorkerHung) as error:
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
        if slot.node is None:
            slot.node = result
            self._slots[slot.actor.load.remote()] = slot
            return None
        outcome = None
        if work is None:
            slot.ready, self._failed_starts = True, 0
        else:
            outcome = self._done(slot, work, result)
        self._give(slot)
        return outcome

    def _done(self, slot: _Slot, work: _Work, result: Any) -> Outcome | None:
        if work.suspects:
            work.suspects.pop()
            self._queue.appendleft(work)
            return None
        self._failed_units = 0
        self._done_units += 1
        return Outcome(work.unit, result)

    def _not_started(self, slot: _Slot, error: Exception) -> None:
        self._record("worker not started", error=cause(error))
        if isinstance(fault := _origin(error), ModelFault) and not self._done_units:
            raise WorkersFailed(str(fault)) from error
        if slot.nodes <= _alive() and not isinstance(error, ActorUnavailableError):  # otherwise its node was lost
            self._failed_starts += 1
        # workers that start at the same time fail at the same time
        if self._failed_starts >= max(MAX_FAILED_STARTS, self._count):
            raise WorkersFailed(f"{self._failed_starts} workers in a row could not start: {cause(error)}") from error

    def _failed(self, slot: _Slot, work: _Work, error: Exception) -> Outcome | None:
        """Put a unit back whose worker failed, with what there is to try next; the outcome where that was all."""
        fault = _fault(error)
        work.apart = True
        about = {"unit": work.unit.unit, "source": work.unit.source, "error": fault.error, "message": fault.message}
        if _lost(error, slot) and work.node_losses < MAX_NODE_LOSSES:
            work.node_losses += 1
            self._record("node lost", **about)
        elif work.suspects:
            first, count = work.suspects.pop()
            if count > 1:
                work.suspects += _halves(first, count)
            else:
                work.excluded[first] = fault
                self._record("sample named", **about, row=first)
        else:
            work.attempts += 1
            self._record("attempt failed", **about, attempt=work.attempts)
            if work.attempts >= MAX_ATTEMPTS:
                return self._given_up(work, fault, error)
            if work.attempts == MAX_ATTEMPTS - 1 and self._probes and not _blameless(error):
                work.suspects = _halves(0, work.unit.count)
        self._queue.appendleft(work)
        return None

    def _given_up(self, work: _Work, fault: Fault, error: Exception) -> Outcome:
        self._failed_units += 1
        said = f"{fault.error}: {fault.message}"
        if self._failed_units >= MAX_FAILED_UNITS:
            raise WorkersFailed(
                f"{MAX_FAILED_UNITS} units in a row failed, each {MAX_ATTEMPTS} times, and nothing more is tried; "
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


def _blameless(error: Exception) -> bool:
    """Return True if no sample can be the cause: the error is of the input, store or model, or storage hangs."""
    origin = _origin(error)
    return isinstance(origin, JobError) or (isinstance(origin, WorkerHung) and origin.activity == STORAGE)


def _fault(error: Exception) -> Fault:
    if isinstance(error, RayActorError):
        return Fault("WorkerDied", f"killed its worker ({last_line(error)})")
    origin = _origin(error)
    return Fault(type(origin).__name__, last_line(origin))


def cause(error: Exception) -> str:
    """What happened on the worker, in a line."""
    origin = _origin(error)
    return f"{type(origin).__name__}: {last_line(origin)}"


def _origin(error: Exception) -> Exception:
    """The worker's own exception where there is one, or else what Ray says."""
    return error.cause if isinstance(error, RayTaskError) else error
