"""The pool: it runs units on Ray actors, and handles attempts, replacements and time limits.

Ray itself restarts nothing (max_restarts=0, max_task_retries=0), because a sample that kills its worker would be
retried forever. The pool decides in the driver, and carries no data: a worker writes its own files and its own commit.

A unit whose worker dies, hangs or raises an error is tried on another worker. If that fails too, the unit is halved
again and again, until the single samples that fail are found. Then the unit is processed without these samples, and
they are rejects of the unit. Losing a node does not count as a failed attempt.

A worker hangs if its heartbeat (pipeline.workers.heartbeat) does not change for too long, however long its unit takes.
The driver polls the heartbeats. Time in which the driver did not poll does not count.
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

MAX_ATTEMPTS = 3  # at a unit, each on another worker; before the last one, its halves are tried to find the cause
MAX_NODE_LOSSES = 10  # per unit; if more nodes are lost, the unit probably fills the memory of its host
MAX_FAILED_STARTS = 3  # consecutive workers that fail before they are ready; at least all that start at once
MAX_FAILED_UNITS = 5  # consecutive units whose last attempt fails

# A worker hangs if its heartbeat does not change for longer than a limit. The limit is HANG_FACTOR times the longest
# pause between two heartbeats in this run, and at least MIN_HANG_SECONDS.
HANG_FACTOR = 10
MIN_HANG_SECONDS = 300.0
MIN_STORAGE_HANG_SECONDS = 1800.0  # the same in storage, whose requests have their own time limit and retries
FIRST_HANG_SECONDS = 6 * 3600.0  # the limit until a pause is measured
MAX_LOADING_SECONDS = 3600.0  # the limit until a worker is ready, because it may download the model
POLL_SECONDS = 5.0  # between two polls of a worker's heartbeat

WAIT_SECONDS = 1.0  # to wait for a worker before `outcomes` yields None
RESOURCES_NOTE_SECONDS = 10.0  # without a worker before the state names the resources that the cluster lacks

RecordEvent = Callable[..., None]
"""Write an event to the run log: its name, and its fields as keyword arguments."""


class WorkersFailed(JobError):
    """No worker starts, or several units in a row fail, so the run ends. The message gives the reason."""


class WorkerHung(Exception):
    """A worker's heartbeat did not change for too long in one activity."""

    def __init__(self, activity: str, seconds: float) -> None:
        super().__init__(f"no progress for {seconds:.0f} s in {activity}")
        self.activity = activity


@dataclass(frozen=True)
class Outcome:
    """The outcome of a unit: the worker's result, or the last error after MAX_ATTEMPTS attempts."""

    unit: Unit
    result: Any = None
    error: str | None = None


@dataclass
class _Work:
    """A unit with the state of its attempts.

    `slices_to_probe` are the slices (first, count) to try separately before the whole unit is tried again. A unit is
    `isolated` after its worker failed, or the worker that read it ahead, because either unit can be the cause. An
    isolated unit is not read ahead, and no other unit is read ahead while it is processed.
    """

    unit: Unit
    attempts: int = 0
    node_losses: int = 0
    isolated: bool = False
    slices_to_probe: list[tuple[int, int]] = field(default_factory=list)
    excluded: dict[int, Fault] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Return the number of samples of the next call."""
        return self.slices_to_probe[-1][1] if self.slices_to_probe else self.unit.count


NO_REPORT = Report(-1, LOADING, 0.0)


@dataclass
class _Slot:
    """A worker: its node, its present work and the time when that began, and the unit that it reads ahead.

    `node` is None until Ray has started the worker, and `nodes` were alive when it was requested. `silent` is the
    number of seconds since its heartbeat last changed. `poll` is the pending poll of its heartbeat, which began at
    `polled`.
    """

    actor: Any
    nodes: frozenset[str]
    since: float
    node: str | None = None
    ready: bool = False
    work: _Work | None = None
    next_work: _Work | None = None
    silent: float = 0.0
    report: Report = NO_REPORT
    poll: "ray.ObjectRef[Report] | None" = None
    polled: float = 0.0


class Pool:
    """Runs units on at most `count` actors, each with a worker `worker(task)`, as the cluster has free resources.

    The pool calls the worker's `process(unit, number, next_unit, excluded)` for each unit. `number` counts its
    attempts, `next_unit` is the unit to read ahead, and `excluded` has the samples to leave out. To find samples that
    fail, the pool calls `probe(unit, number)` with slices of a unit, if the worker has such a method.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        worker: type,
        task: Any,
        *,
        count: int,
        machine: Machine,
        record_event: RecordEvent = lambda event, **fields: None,
    ) -> None:
        options: Any = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": 1}
        options["concurrency_groups"] = {"heartbeat": 1}
        actor = type(worker.__name__, (WorkerActor,), {})  # so that Ray's dashboard and `ps` show the worker's name
        self._actor: Any = ray.remote(num_cpus=machine.threads, num_gpus=machine.gpus, **options)(actor)
        self._packed = WorkerActor.pack(worker, task)
        self._can_probe = hasattr(worker, "probe")
        self._record_event = record_event
        self._resources = {"CPU": machine.threads, "GPU": machine.gpus}
        self._queue = deque(_Work(unit) for unit in units)
        self._count = min(count, len(units))
        self._slots: dict[ray.ObjectRef[Any], _Slot] = {}
        self._failed_starts = self._failed_units = 0
        self._finished_units = 0
        self._longest_pause = 0.0  # seconds between two heartbeats of any worker so far
        self._polled = time.monotonic()

    def outcomes(self) -> Iterator[Outcome | None]:
        """Yield the outcome of each unit, in any order, and None about every second while there is no outcome.

        Raises:
            WorkersFailed: Workers cannot be started, MAX_FAILED_UNITS units in a row fail, or the model fails before
                the first unit is done.
        """
        try:
            for _ in range(self._count):
                self._start_worker()
            # Once no unit is left, workers that the cluster has no resources for yet are not waited for.
            while self._queue or any(slot.work for slot in self._slots.values()):
                done, _ = ray.wait(list(self._slots), num_returns=1, timeout=WAIT_SECONDS)
                if not done:
                    yield None
                for ref, hang in [*((ref, None) for ref in done), *self._poll_heartbeats()]:
                    outcome = self._end_call(ref, hang) if ref in self._slots else None
                    if outcome is not None:
                        yield outcome
        finally:
            for slot in self._slots.values():
                ray.kill(slot.actor)

    def state(self) -> dict[str, Any]:
        """Return the counts of queued units and of ready and starting workers, and the units in progress.

        `waits_for` says why no unit is in progress; otherwise it is None.
        """
        now = time.time() - time.monotonic()
        slots = self._slots.values()
        return {
            "queued": len(self._queue) + sum(slot.next_work is not None for slot in slots),
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
        if seconds < RESOURCES_NOTE_SECONDS:
            return "starting workers"
        free: dict[str, float] = ray.available_resources()
        needed = " and ".join(f"{amount:g} {name}" for name, amount in self._resources.items() if amount)
        present = " and ".join(f"{free.get(name, 0):g} {name}" for name, amount in self._resources.items() if amount)
        return f"no worker for {seconds:.0f} s: each needs {needed}, and the cluster has {present} free"

    def _start_worker(self) -> None:
        actor = self._actor.remote(self._packed)
        self._slots[actor.node.remote()] = _Slot(actor, _alive_nodes(), time.monotonic())

    def _assign(self, slot: _Slot) -> None:
        """Give a ready worker its next unit, or a slice to probe. If none is left, end the worker."""
        work, slot.next_work = slot.next_work or (self._queue.popleft() if self._queue else None), None
        if work is None:
            ray.kill(slot.actor)
            return
        # No other worker can take a unit that is read ahead, so nothing is read ahead near the end.
        if len(self._queue) >= self._count and not work.isolated and not self._queue[0].isolated:
            slot.next_work = self._queue.popleft()
        slot.work, slot.since, slot.silent = work, time.monotonic(), 0.0
        slot.report = replace(slot.report, activity=WORK)
        number = work.attempts + work.node_losses + 1
        if work.slices_to_probe:
            ref = slot.actor.call.remote("probe", work.unit.slice(*work.slices_to_probe[-1]), number)
        else:
            next_unit = slot.next_work.unit if slot.next_work else None
            ref = slot.actor.call.remote("process", work.unit, number, next_unit, work.excluded)
        self._slots[ref] = slot

    def _poll_heartbeats(self) -> list[tuple["ray.ObjectRef[Any]", WorkerHung]]:
        """Poll the heartbeats. Return the calls of the workers that hang."""
        now = time.monotonic()
        if now - self._polled < POLL_SECONDS / 5:
            return []
        # Time in which the driver itself was busy or stopped does not count.
        passed, self._polled = min(now - self._polled, POLL_SECONDS + WAIT_SECONDS), now
        started = {ref: slot for ref, slot in self._slots.items() if slot.node is not None}
        polls = [slot.poll for slot in started.values() if slot.poll is not None]
        answered = set(ray.wait(polls, num_returns=len(polls), timeout=0)[0]) if polls else set()
        hung = []
        for ref, slot in started.items():
            slot.silent += passed
            if slot.poll is not None and slot.poll in answered:
                self._read_heartbeat(slot, slot.poll)
            if slot.poll is None and now - slot.polled >= POLL_SECONDS:
                slot.poll, slot.polled = slot.actor.heartbeat.remote(), now
            if slot.silent > self._hang_limit(slot) and not ray.wait([ref], timeout=0)[0]:
                hung.append((ref, WorkerHung(slot.report.activity, slot.silent)))
        return hung

    def _read_heartbeat(self, slot: _Slot, poll: "ray.ObjectRef[Report]") -> None:
        try:
            report: Report = ray.get(poll)
        except RayError:  # The pending call reports a death, and a broken connection counts as silence.
            return
        finally:
            slot.poll = None
        if report.beats != slot.report.beats:
            slot.report, slot.silent = report, 0.0
            self._longest_pause = max(self._longest_pause, report.longest)

    def _hang_limit(self, slot: _Slot) -> float:
        if not slot.ready:
            return MAX_LOADING_SECONDS
        if not self._longest_pause:
            return FIRST_HANG_SECONDS
        return max(
            MIN_STORAGE_HANG_SECONDS if slot.report.activity == STORAGE else MIN_HANG_SECONDS,
            HANG_FACTOR * self._longest_pause,
        )

    def _end_call(self, ref: "ray.ObjectRef[Any]", hang: WorkerHung | None) -> Outcome | None:
        """Take the result of a call, or end its worker if it hangs, and assign the next work.

        Return the outcome of the unit if it has one now.
        """
        slot = self._slots.pop(ref)
        work, slot.work = slot.work, None
        try:
            if hang is not None:
                raise hang
            result = ray.get(ref)
        except (RayError, WorkerHung) as error:
            return self._end_worker(slot, work, error)
        if slot.node is None:
            slot.node = result
            self._slots[slot.actor.load.remote()] = slot
            return None
        outcome = None
        if work is None:
            slot.ready, self._failed_starts = True, 0
        else:
            outcome = self._finish_work(work, result)
        self._assign(slot)
        return outcome

    def _end_worker(self, slot: _Slot, work: _Work | None, error: Exception) -> Outcome | None:
        """End a worker after an error, and start another. Return the outcome of its unit if it has one now.

        The worker is ended even if it only raised, because its process may be damaged (as after an error of CUDA).
        """
        ray.kill(slot.actor)
        if slot.next_work is not None:
            slot.next_work.isolated = True
            self._queue.appendleft(slot.next_work)
        outcome = None
        if work is None:
            self._start_failed(slot, error)
        else:
            outcome = self._work_failed(slot, work, error)
        if self._queue:
            self._start_worker()
        return outcome

    def _finish_work(self, work: _Work, result: Any) -> Outcome | None:
        """Return the outcome of a unit, or None if only a slice of it was probed."""
        if work.slices_to_probe:
            work.slices_to_probe.pop()
            self._queue.appendleft(work)
            return None
        self._failed_units = 0
        self._finished_units += 1
        return Outcome(work.unit, result)

    def _start_failed(self, slot: _Slot, error: Exception) -> None:
        """Count a worker that did not start. Raises WorkersFailed after too many, or at once if the model fails."""
        reason = worker_error(error)
        self._record_event("worker not started", error=reason)
        if isinstance(fault := _raised(error), ModelFault) and not self._finished_units:
            raise WorkersFailed(str(fault)) from error
        if slot.nodes <= _alive_nodes() and not isinstance(error, ActorUnavailableError):  # else its node was lost
            self._failed_starts += 1
        # Workers that start at the same time fail at the same time.
        if self._failed_starts >= max(MAX_FAILED_STARTS, self._count):
            raise WorkersFailed(f"{self._failed_starts} workers in a row could not start: {reason}") from error

    def _work_failed(self, slot: _Slot, work: _Work, error: Exception) -> Outcome | None:
        """Queue a unit again after its worker failed, with the next thing to try.

        Return the outcome if it has failed MAX_ATTEMPTS times.
        """
        fault = _fault(error)
        work.isolated = True
        fields = {"unit": work.unit.unit, "source": work.unit.source, "error": fault.error, "message": fault.message}
        if _is_node_loss(error, slot) and work.node_losses < MAX_NODE_LOSSES:
            work.node_losses += 1
            self._record_event("node lost", **fields)
        elif work.slices_to_probe:
            first, count = work.slices_to_probe.pop()
            if count > 1:
                work.slices_to_probe += _halves(first, count)
            else:
                work.excluded[first] = fault
                self._record_event("sample named", **fields, row=first)
        else:
            work.attempts += 1
            self._record_event("attempt failed", **fields, attempt=work.attempts)
            if work.attempts >= MAX_ATTEMPTS:
                return self._unit_failed(work, fault, error)
            if work.attempts == MAX_ATTEMPTS - 1 and self._can_probe and _may_be_a_sample(error):
                work.slices_to_probe = _halves(0, work.unit.count)
        self._queue.appendleft(work)
        return None

    def _unit_failed(self, work: _Work, fault: Fault, error: Exception) -> Outcome:
        """Return the outcome of a unit that failed MAX_ATTEMPTS times. Raises WorkersFailed after too many in a row."""
        self._failed_units += 1
        reason = f"{fault.error}: {fault.message}"
        if self._failed_units >= MAX_FAILED_UNITS:
            raise WorkersFailed(
                f"{MAX_FAILED_UNITS} units in a row failed, each {MAX_ATTEMPTS} times, and nothing more is tried; "
                f"the last, unit {work.unit.unit} of {work.unit.source}: {reason}"
            ) from error
        return Outcome(work.unit, error=reason)


def worker_error(error: Exception) -> str:
    """Describe an error of a worker in one line: its class and its message."""
    raised = _raised(error)
    return f"{type(raised).__name__}: {last_line(raised)}"


def _halves(first: int, count: int) -> list[tuple[int, int]]:
    """Return the two halves of a slice, the earlier one last; a slice of one sample stays whole."""
    half = count // 2
    return [(first + half, count - half)] + ([(first, half)] if half else [])


def _is_node_loss(error: Exception, slot: _Slot) -> bool:
    """Return whether the worker was lost with its node.

    A worker that cannot be reached counts as lost with its node, until it is known to have died.
    """
    if isinstance(error, ActorUnavailableError):
        return True
    return isinstance(error, RayActorError) and slot.node not in _alive_nodes()


def _alive_nodes() -> frozenset[str]:
    nodes: list[dict[str, Any]] = ray.nodes()
    return frozenset(node["NodeID"] for node in nodes if node["Alive"])


def _may_be_a_sample(error: Exception) -> bool:
    """Return False if no sample can be the cause: the error is of the input, store or model, or storage hangs."""
    raised = _raised(error)
    return not (isinstance(raised, JobError) or (isinstance(raised, WorkerHung) and raised.activity == STORAGE))


def _fault(error: Exception) -> Fault:
    if isinstance(error, RayActorError):
        return Fault("WorkerDied", f"killed its worker ({last_line(error)})")
    raised = _raised(error)
    return Fault(type(raised).__name__, last_line(raised))


def _raised(error: Exception) -> Exception:
    """Return the exception that the worker raised, or else Ray's own."""
    return error.cause if isinstance(error, RayTaskError) else error
