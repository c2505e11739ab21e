"""The driver of a run: it processes the pending units of a job on a pool of workers, and reports their progress."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import JobError
from pipeline.execute.cluster import connected
from pipeline.messages import UnitResult
from pipeline.plan.invert_task import InvertTask
from pipeline.plan.opened_job import OpenedJob, Task
from pipeline.plan.units import index_again
from pipeline.progress import Progress
from pipeline.store.checkpoint import CheckpointWriter
from pipeline.store.plan import Unit
from pipeline.store.run_log import RunLog
from pipeline.store.store import Store

UNITS_BEFORE_MODEL_FAILS = 3
"""A run ends if this many of its first units have model errors, all of one class, and no unit has a row."""


class ModelFails(JobError):
    """The first units of a run have no row, and all errors of the model in them are of one class."""


@dataclass
class DriverResult:
    """The units that a driver has finished so far, and a message for each unit that failed."""

    finished: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def process_units(job: OpenedJob, pending: Sequence[Unit], result: DriverResult) -> list[Unit]:
    """Process units of a job on workers, and add them to the `result`.

    Return the superseded units: of a retry, those that must be tried again, because another retry came first.

    Raises:
        ModelFails: See the class.
        WorkersFailed: No worker starts, or several units in a row fail.
        ResourcesError, NoCluster, NotStarted: See `connected`.
    """
    from pipeline.execute.metrics import Metrics
    from pipeline.execute.pool import Pool

    store, task, workers = job.store, job.task, job.task.spec.workers
    if job.retry and isinstance(task, InvertTask):
        index_again(store, pending)
    store.delete("report.html")  # It describes the store as it was. A finished run writes it if it does not exist.
    superseded, rejected = list[Unit](), 0
    total = sum(len(unit.only) or unit.count * task.record.variants_per_row for unit in pending)
    count = min(workers.count, len(pending))
    first_units = None if job.retry else FirstUnits(store)
    with (
        connected(count, task.machine, needed=min(workers.needed, count)),
        RunLog(store) as run_log,
        CheckpointWriter(
            store, 0 if job.retry else job.units, [unit.unit for unit in pending], task.key
        ) as checkpoints,
        Progress(task.spec.kind, total, "images") as progress,
    ):
        metrics = Metrics(task.spec.kind, run_log.run)
        pool = Pool(pending, worker_class(task), task, count=count, machine=task.machine, record_event=run_log)
        run_log.state = pool.state

        def note() -> str:
            return f"{rejected} rejected" if rejected else ""

        for outcome in pool.outcomes():
            if outcome is None:
                state = pool.state()
                metrics.update(state)
                progress.advance(0, state["waits_for"] or note())
            elif outcome.error is not None:
                result.failures.append(f"unit {outcome.unit.unit} ({outcome.unit.source}): {outcome.error}")
            elif outcome.result.superseded:
                superseded.append(outcome.unit)
            else:
                done: UnitResult = outcome.result
                metrics.unit_done(done)
                result.finished.append(outcome.unit.unit)
                if not job.retry:
                    checkpoints.done(outcome.unit.unit)
                rejected += done.rejected
                progress.advance(done.images, note())
                if first_units and progress.done < total:
                    first_units.check(done)
            run_log.tick()
    return superseded


class FirstUnits:
    """The model errors of the first units of a run, as long as no unit has a row."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._errors = list[Mapping[str, int]]()
        self._has_row = False

    def check(self, result: UnitResult) -> None:
        """Add the result of a unit.

        Raises:
            ModelFails: See the class.
        """
        self._has_row = self._has_row or result.ok > 0
        if self._has_row or not result.model_errors:
            return
        self._errors.append(result.model_errors)
        total = sum(map(Counter[str], self._errors), Counter[str]())
        if len(self._errors) >= UNITS_BEFORE_MODEL_FAILS and len(total) == 1:
            ((error, count),) = total.items()
            location = self._store.location
            raise ModelFails(
                f"{location}: the first {len(self._errors)} units have no row, and {count} of their images were "
                f"rejected with {error}. The cause is the model or its settings, so the run ends. Remove the cause, "
                f"run the job again, and try these images again: edict retry {location} --errors {error}"
            )


def worker_class(task: Task) -> type:
    """Import the class of a task's workers, and with it torch, which a finished job does not need."""
    if isinstance(task, InvertTask):
        from pipeline.workers.invert import InvertWorker

        return InvertWorker
    from pipeline.workers.edit import EditWorker

    return EditWorker
