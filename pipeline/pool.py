"""The driver's side of the work: a queue of units, a pool of Ray actors, attempts and replacements.

Ray restarts nothing by itself here (max_restarts=0, max_task_retries=0), because a sample that kills its worker would
then be tried for ever. The driver decides, and carries no data: a worker writes its own files and its own commit.
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from pipeline.errors import JobError
from pipeline.plan import Unit

ATTEMPTS = 3  # of a unit, each on another actor
STARTS = 3  # of actors in a row that fail before they are ready


class WorkersFailed(JobError):
    """No worker can be started; the message holds what its constructor raised."""


@dataclass(frozen=True)
class Outcome:
    """What became of a unit: the worker's result, or after ATTEMPTS of them the last error."""

    unit: Unit
    result: Any = None
    error: str | None = None


@dataclass
class _Slot:
    """An actor at work on `unit` (None while it starts), with the unit it may already read ahead."""

    actor: Any
    unit: Unit | None = None
    ahead: Unit | None = None


def run_units(
    units: Sequence[Unit], worker: type, task: Any, *, count: int, cpus: float, gpus: float
) -> Iterator[Outcome | None]:
    """Outcomes as they come, in no order; None about every second while there is nothing to tell.

    `worker(task)` is made once an actor, and its `process(unit, attempt, ahead)` called for each unit. Raises
    WorkersFailed when actors cannot be started.
    """
    options: Any = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": 1, "num_cpus": cpus, "num_gpus": gpus}
    Actor: Any = ray.remote(**options)(worker)
    queue, attempts, failed_starts = deque(units), Counter[str](), 0
    slots: dict[ray.ObjectRef, _Slot] = {}

    def start() -> None:
        actor = Actor.remote(task)
        slots[actor.ready.remote()] = _Slot(actor)

    def give(slot: _Slot) -> None:
        unit = slot.ahead or (queue.popleft() if queue else None)
        if unit is None:
            ray.kill(slot.actor)
            return
        # what one worker reads ahead no other can take, so near the end nothing is read ahead
        ahead = queue.popleft() if len(queue) >= count else None
        attempts[unit.unit] += 1
        slots[slot.actor.process.remote(unit, attempts[unit.unit], ahead)] = _Slot(slot.actor, unit, ahead)

    try:
        for _ in range(min(count, len(units))):
            start()
        while slots:
            done, _ = ray.wait(list(slots), num_returns=1, timeout=1.0)
            if not done:
                yield None
            for ref in done:
                slot = slots.pop(ref)
                try:
                    result = ray.get(ref)
                except (RayActorError, RayTaskError) as error:
                    # a task that raised may have left its process damaged (CUDA does): both get a new actor
                    ray.kill(slot.actor)
                    if slot.ahead is not None:
                        queue.appendleft(slot.ahead)
                    if slot.unit is None:
                        failed_starts += 1
                        if failed_starts >= STARTS:
                            raise WorkersFailed(
                                f"{STARTS} workers in a row could not start: {_cause(error)}"
                            ) from error
                    elif attempts[slot.unit.unit] < ATTEMPTS:
                        queue.append(slot.unit)
                    else:
                        yield Outcome(slot.unit, error=_cause(error))
                    if queue:
                        start()
                    continue
                failed_starts = 0
                if slot.unit is not None:
                    yield Outcome(slot.unit, result)
                give(slot)
    finally:
        for slot in slots.values():
            ray.kill(slot.actor)


def _cause(error: Exception) -> str:
    """What happened on the worker, in a line: its own exception where there is one."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1].strip() if lines else ''}"
