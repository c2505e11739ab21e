"""Running a job: open its store, plan, work, finish; the same for an inversion and an edit."""

import io
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from edict.schedule import Schedule
from pipeline.errors import JobError, noting
from pipeline.execute.cluster import connected, machine_like
from pipeline.inspect.report import report
from pipeline.inspect.sheet import contact_sheets
from pipeline.inspect.status import Status, status
from pipeline.io.masks import MaskError
from pipeline.messages import UnitResult
from pipeline.plan.job import (
    Job,
    check_job,
    check_model,
    check_output,
    has_negative,
    inverted_with,
    new_record,
    open_job,
    planned_schedule,
    resolve,
)
from pipeline.plan.selection import Planning, Selection, extend_plan, plan_rows, read_selection
from pipeline.plan.tasks import EditError, Edits, EditTask, Variant, executed_steps
from pipeline.plan.units import expanded, index_again, plan_shards, spread
from pipeline.progress import Progress
from pipeline.store.checkpoint import CheckpointWriter
from pipeline.store.errors import InvalidCommit, StoreError
from pipeline.store.job_record import JobKey
from pipeline.store.latents import stored_schedule
from pipeline.store.parts import from_stored
from pipeline.store.plan import Unit, is_planned, parts_of, read_units, write_units
from pipeline.store.run_log import RunLog
from pipeline.store.store import Store
from schemas.fingerprint import EditFingerprint
from schemas.job import JobRecord, digest_of
from schemas.locations import without_secrets
from schemas.rejects import Reject
from schemas.specs import EditSpec, InvertSpec

RETRIES = 9999  # of a unit: the names of their commits have four digits
HOPELESS = 3  # a run ends if its first units have no row, and the model errors in this many of them are of one class


@dataclass(frozen=True)
class RunResult:
    """The result of a run: the store's status, and the units that failed in the run.

    `shortfall` says why a complete job is not a success: it has no row, or too many rejects. `pages` has the locations
    of the report and, if there is one, of the contact sheet, under `report` and `sheet`.
    """

    status: Status
    failures: list[str]
    shortfall: str | None = None
    pages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run of a job: its store, its task, the errors to `retry`, and the number of planned units.

    `failures` and `finished` grow while it runs: the units that failed, each with its error, and those that are done.
    """

    store: Store
    task: Job | EditTask
    retry: Sequence[str]
    units: int
    failures: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)


class ModelFails(JobError):
    """The first units of a run have no row, and all errors of the model in them are of one class."""


class RetryError(JobError):
    """A retry of rejects that the store does not have, or one too many."""


def run_invert(spec: InvertSpec, *, retry: Sequence[str] = ()) -> RunResult:
    """Invert every sample of the input into the store `spec.output`, or finish what is missing there.

    With `retry`, only what was rejected there for one of these errors is tried again. A finished job does not import
    the model's libraries, which takes seconds. Raises PlanError, StoreError (JobChanged where the store is another
    job's), RetryError, ModelError, WorkersFailed.
    """
    return _work(*open_invert(spec, retry))


def open_invert(spec: InvertSpec, retry: Sequence[str] = ()) -> tuple[Run, list[Unit]]:
    """Return the run of an inversion and its missing units, after planning it if it has no plan.

    Raises the errors of `run_invert`, except WorkersFailed.
    """
    note_float16(spec.dtype, spec.workers.gpus)
    job = resolve(spec, check=False)  # before the store is created: a wrong path of the model leaves no folder
    store = Store(spec.output, create=True)
    if not (has_plan := is_planned(store)):
        check_model(job)
    plan = partial(plan_shards, store, spec.input, spec.workers.batch_size, spec.workers.count)
    record, units = _open(store, job.record, expanded(spec.input), plan)
    job = replace(job, record=record, key=store.key(record))
    pending = _pending(store, units, retry)
    if pending and has_plan:
        check_model(job)
        job = replace(job, schedule=stored_schedule(store))
    return Run(store, job, retry, len(units)), pending


def run_edit(spec: EditSpec, edits: Edits, *, retry: Sequence[str] = ()) -> RunResult:
    """Edit the rows of the latent store `spec.latents` into the store `spec.output`, or finish what is missing.

    With `retry`, only the images that were rejected there for one of these errors are tried again. Raises EditError,
    SelectionError, StoreError, StorageError, RetryError, ModelError, WorkersFailed.
    """
    store, units, task = open_edit(spec, edits)
    return _work(Run(store, task, retry, len(units)), _pending(store, units, retry))


def open_edit(spec: EditSpec, edits: Edits) -> tuple[Store, list[Unit], EditTask]:
    """Return the store of an edit, its units and its task, after planning the edit or extending its plan.

    Raises EditError, SelectionError, StoreError, StorageError, ModelError.
    """
    latents, wanted = Store(spec.latents), read_selection(spec)
    task = edit_task(spec, latents, edits, wanted)
    store, rows = Store(spec.output, create=True), task.record.rows
    cut_for = task.record.edit.batch_size, spec.workers.count
    planning = Planning(
        latents, wanted, *cut_for, edits.listed, edits.masks, edits.mask_files, per_caption=edits.per_caption
    )

    def plan() -> list[Unit]:
        return planning.cut(parts_of(latents)) if rows is None else plan_rows(store, rows, planning)

    def extend(record: JobRecord) -> None:
        extend_plan(store, record, planning)

    record, units = _open(store, task.record, [spec.latents, *spec.files], plan, extend)
    return store, units, replace(task, record=record, key=store.key(record), shown=spread(units, spec.contact_sheet))


def edit_task(spec: EditSpec, latents: Store, edits: Edits, wanted: Selection) -> EditTask:
    """Return an edit's task, with a new record. Raises EditError where the store cannot serve a variant."""
    inversion = inverted_with(latents)
    inversion = replace(inversion, machine=machine_like(inversion.machine, spec.workers.gpus, "edited"))
    note_float16(inversion.weights.dtype, inversion.machine.gpus)
    made = inversion.fingerprint
    schedule = schedule_of(latents, inversion)
    _check_variants(latents, inversion, schedule, edits.variants)
    batch_size = spec.workers.batch_size or made.batch_size
    as_before = _check_controls(inversion, schedule, edits.variants, batch_size)
    decides = EditFingerprint(
        latents=inversion.record.fingerprint,
        **wanted.fingerprint(),
        edits=edits.fingerprint,
        format=spec.images.format,
        batch_size=batch_size,
        quality=spec.images.quality,
        # A job that an earlier version began would otherwise mix two kinds of edits.
        control=None if as_before else "prompt-to-prompt",
    )
    fingerprint = decides.model_dump(mode="json")
    extras = {"variants_per_row": len(edits.variants), "rows": digest_of(fingerprint) if spec.planned_rows else None}
    record = new_record(spec.kind, spec.model_dump(mode="json"), fingerprint, inversion.machine, **extras)
    return EditTask(spec, inversion, schedule, edits.prompts, record)


def schedule_of(latents: Store, inversion: Job) -> Schedule:
    """Return the schedule of a latent store's rows."""
    if (earlier := inversion.fingerprint.schedule) is not None:
        return from_stored(earlier)
    if (found := stored_schedule(latents)) is not None:
        return found
    return planned_schedule(inversion.model(), inversion.fingerprint.sampling)


def _check_variants(latents: Store, inversion: Job, schedule: Schedule, variants: Sequence[Variant]) -> None:
    """Raise EditError for an edit with more steps than the store, or a negative prompt that guidance does not use."""
    sampling = inversion.fingerprint.sampling
    for variant in variants:
        executed_steps(variant, sampling, schedule)
        if variant.negative_prompt and variant.guidance_scale is None and sampling.guidance_scale == 1:
            raise EditError(
                f"edit {variant.name!r} has a negative_prompt, which has no effect at guidance scale 1, and "
                f"{latents.location} was inverted at that scale. Give the edit a guidance_scale"
            )
        if variant.negative_prompt and not has_negative(inversion):
            raise EditError(
                f"edit {variant.name!r} has a negative_prompt, which the model of {latents.location} does not take. "
                "Leave it out"
            )


def _check_controls(inversion: Job, schedule: Schedule, variants: Sequence[Variant], batch_size: int) -> bool:
    """Return whether earlier versions make the same edits. Raises EditError if attention control has no effect."""
    if not (controlled := [variant.name for variant in variants if variant.control]):
        return True
    from edict.models import DirectModel
    from edict.models.unsupported import NO_CONTROL_IF_COMPILED, no_control
    from pipeline.workers.edit import check_control

    model = inversion.model()
    if not isinstance(model, DirectModel) or not model.controllable:
        raise EditError(f"edit {controlled[0]!r}: {no_control(model)}")
    if inversion.fingerprint.compile:
        raise EditError(f"edit {controlled[0]!r}: {NO_CONTROL_IF_COMPILED}")
    sampling = inversion.fingerprint.sampling
    as_before = [check_control(variant, model, sampling, schedule) for variant in variants]
    if batch_size < 2:
        raise EditError(
            "workers.batch_size: batches are of 1, and an edit with control shares its batch with the image that "
            "controls it. Give 2 or more"
        )
    return all(as_before)


def note_float16(dtype: str, gpus: float) -> None:
    """Say on stderr what float16 takes where it has no GPU."""
    if dtype == "float16" and not gpus:
        print(
            "note: a network in float16 takes a CPU 18 to 33 times as long as one in float32 (python -m "
            "benchmarks.network): it is for GPUs",
            file=sys.stderr,
        )


def write_report(store: Store) -> list[str]:
    """Write the contact sheets of a store, then report.html. Return the names of these files.

    report.html is written last, so if it exists, the sheets exist too.
    """
    written = []
    for name, sheet in contact_sheets(store):
        buffer = io.BytesIO()
        sheet.save(buffer, "png")
        store.put(name, buffer.getvalue())
        written.append(name)
    store.put("report.html", report(store).encode())
    return [*written, "report.html"]


def _open(
    store: Store,
    record: JobRecord,
    inputs: Iterable[str],
    plan: Callable[[], list[Unit]],
    extend: Callable[[JobRecord], None] = lambda record: None,
) -> tuple[JobRecord, list[Unit]]:
    """Return the record of the store's job, and its units. If it has no plan, make one; else extend it if needed.

    An input that cannot be planned leaves no job.json, so that the spec can be corrected.
    """
    check_output(store, inputs)
    found = check_job(store, record)
    if not (has_plan := is_planned(store)) and next(store.names("commits"), None) is not None:
        raise StoreError(
            f"{store.location}: has commits but no plan/units.parquet; put it back, or give another output"
        )
    planned = None if has_plan else plan()
    record = open_job(store, record, found)
    if planned is not None:
        write_units(store, planned)
    extend(record)
    return record, read_units(store)


def _pending(store: Store, units: Sequence[Unit], retry: Sequence[str]) -> list[Unit]:
    """The units that no commit names yet; for a retry, those with rejects of these errors, cut down to them.

    Raises RetryError where the store has no such rejects.
    """
    if not retry:
        refused = list[InvalidCommit]()
        done = store.committed_units(refused)
        for commit in refused:
            print(f"note: {commit.path} {commit.reason}: {commit.remedy}", file=sys.stderr)
        store.delete_invalid(refused)
        pending = [unit for unit in units if unit.unit not in done]
        if len(pending) < len(units):
            print(f"{len(units) - len(pending)} of {len(units)} units are done already", file=sys.stderr)
        return pending
    pending, known = _retried(store, units, retry)
    if unknown := [error for error in retry if error not in known]:
        had = ", ".join(f"{error} ({count})" for error, count in known.most_common()) or "none"
        raise RetryError(f"{store.location}: nothing was rejected for {', '.join(unknown)}; its rejects are: {had}")
    return pending


def _retried(store: Store, units: Sequence[Unit], errors: Sequence[str]) -> tuple[list[Unit], Counter[str]]:
    """Return the units with rejects of these errors, cut down to them, and the count of each error in the store."""
    known, again = Counter[str](), dict[str, tuple[int, list[Reject], str]]()
    for commit in store.commits([]):
        known.update(reject.error for reject in commit.rejects)
        if rejects := [reject for reject in commit.rejects if reject.error in errors]:
            again[commit.unit] = commit.retry + 1, rejects, commit.last
    if worn := [unit for unit, (number, *_) in again.items() if number > RETRIES]:
        raise RetryError(f"{store.location}: unit {worn[0]} was retried {RETRIES:,} times, and no more are counted")
    return [
        replace(
            unit,
            retry=number,
            errors=tuple(errors),
            only=frozenset((reject.index, reject.key) for reject in rejects),
            masks=frozenset((reject.index, reject.key) for reject in rejects if reject.error == MaskError.__name__),
            after=after,
        )
        for unit in units
        if unit.unit in again
        for number, rejects, after in [again[unit.unit]]
    ], known


def _work(run: Run, pending: Sequence[Unit]) -> RunResult:
    """Process what is missing, or to be tried again, and finish."""
    before = run.units - len(pending)

    def committed(error: BaseException) -> str | None:
        if isinstance(error, JobError) and not run.finished and not run.failures:
            return None
        if run.retry:
            return f"{len(run.finished)} units were retried"
        # "at least": a worker may have committed a unit that it has not reported to this process
        return f"at least {before + len(run.finished)} of {run.units} units are committed"

    with noting(committed):
        while pending:
            overtaken = _process(run, pending)
            pending, _ = _retried(run.store, overtaken, run.retry) if overtaken else ([], None)
            if pending:
                print(
                    f"note: another retry committed {len(pending)} units first; their remaining rejects are retried",
                    file=sys.stderr,
                )
        ran = _finish(run.store, run.failures, run.task.key)
    return replace(ran, shortfall=shortfall(ran.status, run.task.spec.rejects.max_share))


def _check_first(store: Store, errors: Sequence[Mapping[str, int]]) -> None:
    """Raise ModelFails if all errors of the model in the first units, which have no row, are of one class."""
    total = sum(map(Counter[str], errors), Counter[str]())
    if len(errors) >= HOPELESS and len(total) == 1:
        ((error, count),) = total.items()
        raise ModelFails(
            f"{store.location}: the first {len(errors)} units have no row, and {count} of their images were rejected "
            f"with {error}. The cause is the model or its settings, so the run ends. Remove the cause, run the job "
            f"again, and try these images again: edict retry {store.location} --errors {error}"
        )


def shortfall(found: Status, max_share: float | None) -> str | None:
    """Return why a complete job is not a success, or None if it is one."""
    if found.complete and not found.input:
        return "there is no row, because the input has no samples or rows"
    if found.complete and not found.ok:
        if found.filtered == found.input:
            return "there is no image, because no edit changes a caption; check the edits with `edict plan`"
        return f"there is no row: {found.rejected} of {found.input} images were rejected"
    tried = found.ok + found.rejected
    if max_share is not None and tried and (share := found.rejected / tried) > max_share:
        return (
            f"{found.rejected} of {tried} images were rejected, a share of {share:.6g}, and rejects.max_share is "
            f"{max_share:g}; retry them with `edict retry`, or raise the limit"
        )
    return None


def _process(run: Run, pending: Sequence[Unit]) -> list[Unit]:
    """Run units on workers. Return the units of a retry that must be tried again, because another retry came first."""
    from pipeline.execute.metrics import Metrics
    from pipeline.execute.pool import Pool

    store, task, workers, retry = run.store, run.task, run.task.spec.workers, run.retry
    if retry and isinstance(task, Job):
        index_again(store, pending)
    store.delete("report.html")  # it would describe the store as it was; _finish writes it where it is absent
    overtaken: list[Unit] = []
    kind, machine = task.spec.kind, task.machine
    total, rejected = sum(len(unit.only) or unit.count * task.record.variants_per_row for unit in pending), 0
    count = min(workers.count, len(pending))
    hopes, barren = not retry, list[Mapping[str, int]]()
    with (
        connected(count, machine, needed=min(workers.needed, count)),
        RunLog(store) as run_log,
        CheckpointWriter(store, 0 if retry else run.units, [unit.unit for unit in pending], task.key) as checkpoints,
        Progress(kind, total, "images") as progress,
    ):
        metrics = Metrics(kind, run_log.run)
        pool = Pool(pending, _worker_class(task), task, count=count, machine=machine, record=run_log)
        run_log.state = pool.state

        def rejects() -> str:
            return f"{rejected} rejected" if rejected else ""

        for outcome in pool.outcomes():
            if outcome is None:
                state = pool.state()
                metrics.state(state)
                progress.advance(0, state["waits_for"] or rejects())
            elif outcome.error is not None:
                run.failures.append(f"unit {outcome.unit.unit} ({outcome.unit.source}): {outcome.error}")
            else:
                done: UnitResult = outcome.result
                if done.lost:
                    overtaken.append(outcome.unit)
                    continue
                metrics.done(done)
                run.finished.append(outcome.unit.unit)
                if not retry:
                    checkpoints.done(outcome.unit.unit)
                rejected += done.rejected
                progress.advance(done.images, rejects())
                hopes = hopes and not done.ok
                if hopes and done.model_errors and progress.done < total:
                    barren.append(done.model_errors)
                    _check_first(store, barren)
            run_log.tick()
    return overtaken


def _worker_class(task: Job | EditTask) -> type:
    """Import the class of a job's workers, and with it torch, which a finished job does not need."""
    if isinstance(task, Job):
        from pipeline.workers.invert import InvertWorker

        return InvertWorker
    from pipeline.workers.edit import EditWorker

    return EditWorker


def _finish(store: Store, failures: list[str], key: JobKey) -> RunResult:
    """A complete run leaves only files that a commit names, and its report."""
    store.check_key(key)
    store.remove_orphan_files()
    found = status(store)
    if not store.has("report.html"):
        write_report(store)
    pages = {"report": "report.html", "sheet": "contact_sheet.png"}
    location = without_secrets(store.location).rstrip("/")
    return RunResult(
        found, failures, pages={name: f"{location}/{file}" for name, file in pages.items() if store.has(file)}
    )
