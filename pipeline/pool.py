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
from pipeline.worker import Fault

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


@dataclass
class _Slot:
    """A worker: on which node (None while it starts), and since when it is at which work; what it may read ahead."""

    actor: Any
    node: str | None = None
    work: _Work | None = None
    ahead: _Work | None = None
    since: float = 0.0


def run_units(
    units: Sequence[Unit],
    worker: type,
    task: Any,
    *,
    count: int,
    cpus: float,
    gpus: float,
    record: Record = lambda event, **about: None,
) -> Iterator[Outcome | None]:
    """Outcomes as they come, in no order; None about every second while there is nothing to tell.

    `worker(task)` is made once an actor, `count` of them at most, as the cluster has room. For each unit
    `process(unit, number, ahead, poison)` is called, with the samples to leave out by their place in the unit, and
    in search of them `probe(unit, number)` with a slice of the unit, where the worker has such a method. Raises
    WorkersFailed when actors cannot be started or FAILURES units in a row fail.
    """
    options: Any = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": 1, "num_cpus": cpus, "num_gpus": gpus}
    Actor: Any = ray.remote(**options)(worker)
    queue = deque(_Work(unit) for unit in units)
    slots: dict[ray.ObjectRef, _Slot] = {}
    failed_starts = failed_units = 0
    slowest = 0.0  # seconds a sample, of the units that were done

    def start() -> None:
        actor = Actor.remote(task)
        slots[actor.ready.remote()] = _Slot(actor)

    def give(slot: _Slot) -> None:
        work, slot.ahead = slot.ahead or (queue.popleft() if queue else None), None
        if work is None:
            ray.kill(slot.actor)
            return
        # what one worker reads ahead no other can take, so near the end nothing is read ahead
        if len(queue) >= count and not work.apart and not queue[0].apart:
            slot.ahead = queue.popleft()
        slot.work, slot.since = work, time.monotonic()
        number = work.attempts + work.losses + 1
        if work.suspects:
            ref = slot.actor.probe.remote(work.unit.slice(*work.suspects[-1]), number)
        else:
            ahead = slot.ahead.unit if slot.ahead else None
            ref = slot.actor.process.remote(work.unit, number, ahead, work.poison)
        slots[ref] = slot

    def limit(work: _Work) -> float:
        return max(AT_LEAST, SLOWER * slowest * work.unit.count) if slowest else UNMEASURED

    def settled(slot: _Slot, work: _Work, result: Any) -> Outcome | None:
        nonlocal slowest, failed_units
        if work.suspects:
            work.suspects.pop()
            queue.appendleft(work)
            return None
        slowest = max(slowest, (time.monotonic() - slot.since) / work.unit.count)
        failed_units = 0
        return Outcome(work.unit, result)

    def failed(work: _Work, fault: Fault, *, lost: bool, input_error: bool) -> Outcome | None:
        nonlocal failed_units
        work.apart = True
        about = {"unit": work.unit.unit, "source": work.unit.source, "error": fault.error, "message": fault.message}
        if lost and work.losses < LOSSES:
            work.losses += 1
            record("node lost", **about)
        elif work.suspects:
            first, count = work.suspects.pop()
            if count > 1:
                work.suspects += _halves(first, count)
            else:
                work.poison[first] = fault
                record("sample named", **about, row=first)
        else:
            work.attempts += 1
            record("attempt failed", **about, attempt=work.attempts)
            if work.attempts >= ATTEMPTS:
                failed_units += 1
                return Outcome(work.unit, error=f"{fault.error}: {fault.message}")
            if work.attempts == ATTEMPTS - 1 and hasattr(worker, "probe") and not input_error:
                work.suspects = _halves(0, work.unit.count)
        queue.appendleft(work)
        return None

    try:
        for _ in range(min(count, len(units))):
            start()
        while slots:
            done, _ = ray.wait(list(slots), num_returns=1, timeout=1.0)
            now = time.monotonic()
            hung = [ref for ref, slot in slots.items() if slot.work and now - slot.since > limit(slot.work)]
            if not done and not hung:
                yield None
            for ref in done or hung:
                slot = slots.pop(ref)
                work, slot.work = slot.work, None
                outcome = None
                try:
                    if not done:
                        raise TimeoutError
                    result = ray.get(ref)
                except (RayError, TimeoutError) as error:
                    # a task that raised may have left its process damaged (CUDA does): both get a new actor
                    ray.kill(slot.actor)
                    if slot.ahead is not None:
                        slot.ahead.apart = True
                        queue.appendleft(slot.ahead)
                    if work is None:
                        failed_starts += 1
                        record("worker not started", error=_cause(error))
                        # all that start on a node go with it
                        if failed_starts >= max(STARTS, count):
                            raise WorkersFailed(
                                f"{failed_starts} workers in a row could not start: {_cause(error)}"
                            ) from error
                    else:
                        seconds = now - slot.since
                        outcome = failed(
                            work, _fault(error, seconds), lost=_lost(error, slot), input_error=_input(error)
                        )
                        if failed_units >= FAILURES:
                            raise WorkersFailed(
                                f"{FAILURES} units in a row failed, each {ATTEMPTS} times, and nothing more is tried; "
                                f"the last, unit {work.unit.unit} of {work.unit.source}: {outcome and outcome.error}"
                            ) from error
                    if queue:
                        start()
                else:
                    failed_starts = 0
                    if work is None:
                        slot.node = result
                    else:
                        outcome = settled(slot, work, result)
                    give(slot)
                if outcome is not None:
                    yield outcome
    finally:
        for slot in slots.values():
            ray.kill(slot.actor)


def _halves(first: int, count: int) -> list[tuple[int, int]]:
    """The two halves of a slice, the earlier one last; a slice of one sample is its own."""
    half = count // 2
    return [(first + half, count - half)] + ([(first, half)] if half else [])


def _lost(error: Exception, slot: _Slot) -> bool:
    """Whether the worker went with its node. One that cannot be reached went so, until it is known to have died."""
    if isinstance(error, ActorUnavailableError):
        return True
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return isinstance(error, RayActorError) and slot.node not in alive


def _input(error: Exception) -> bool:
    """Whether a worker said that its input, its store or its model is not right: that is no sample's fault."""
    return isinstance(_origin(error), JobError)


def _fault(error: Exception, seconds: float) -> Fault:
    if isinstance(error, TimeoutError):
        return Fault("WorkerHung", f"was not done after {seconds:.0f} s, {SLOWER} times what the slowest unit took")
    if isinstance(error, RayActorError):
        return Fault("WorkerDied", f"killed its worker ({_last_line(error)})")
    origin = _origin(error)
    return Fault(type(origin).__name__, _last_line(origin))


def _cause(error: Exception) -> str:
    """What happened on the worker, in a line."""
    origin = _origin(error)
    return f"{type(origin).__name__}: {_last_line(origin)}"


def _origin(error: Exception) -> Exception:
    """The worker's own exception where there is one, or else what Ray says."""
    return error.cause if isinstance(error, RayTaskError) else error


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
