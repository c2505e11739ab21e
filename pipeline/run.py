"""Running a job: open its store, plan, work, finish; the same for an inversion and an edit."""

import dataclasses
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edict.checkpoint import DEFAULT, locate, weights_digest
from pipeline.cluster import connected, machine_for, machine_like
from pipeline.errors import JobError, noting
from pipeline.job import (
    check_job,
    check_output,
    fit_of,
    invert_fingerprint,
    inverted_with,
    lora_of,
    open_job,
    schedule_of,
    stored_machine,
    stored_spec,
    weights_of,
)
from pipeline.journal import Journal
from pipeline.ledger import Ledger
from pipeline.masks import MaskError
from pipeline.plan import (
    Unit,
    digest_of,
    expanded,
    index_again,
    is_planned,
    part_units,
    plan_shards,
    planned_rows,
    read_units,
    spread,
    write_units,
)
from pipeline.progress import Progress
from pipeline.report import report
from pipeline.selection import Selection, extend_plan, plan_rows, read_selection
from pipeline.sheet import contact_sheets
from pipeline.status import Status, status
from pipeline.store import CommitRefused, JobKey, Store, StoreError
from pipeline.tasks import EditError, Edits, EditTask, InvertTask, executed_steps
from pipeline.work import Done, Machine
from schemas.locations import without_secrets
from schemas.rejects import Reject
from schemas.specs import EditSpec, InvertSpec, Workers

RETRIES = 9999  # of a unit: the names of their commits have four digits
HOPELESS = 3  # a run ends if its first units have no row, and the model errors in this many of them are of one class


@dataclass(frozen=True)
class Ran:
    """The result of a run: the store's status, and the units that failed in the run.

    `shortfall` says why a complete job is not a success: it has no row, or too many rejects. `pages` has the locations
    of the report and, if there is one, of the contact sheet, under `report` and `sheet`.
    """

    status: Status
    failures: list[str]
    shortfall: str | None = None
    pages: Mapping[str, str] = dataclasses.field(default_factory=dict)


class ModelFails(JobError):
    """The first units of a run have no row, and all errors of the model in them are of one class."""


class RetryError(JobError):
    """A retry of rejects that the store does not have, or one too many."""


def run_invert(spec: InvertSpec, *, retry: Sequence[str] = ()) -> Ran:
    """Invert every sample of the input into the store `spec.output`, or finish what is missing there.

    With `retry`, only what was rejected there for one of these errors is tried again. Raises PlanError, StoreError
    (JobChanged where the store is another job's), RetryError, ModelError, WorkersFailed.
    """
    note_float16(spec.dtype, spec.workers.gpus)
    folder = locate(spec.model.path, spec.model.revision, spec.model.variant)
    store = Store(spec.output, create=True)
    # A retry computes, so a model of the user's is checked again.
    may_compute = bool(retry) and (folder != DEFAULT or spec.model.lora is not None)
    fingerprint = None if may_compute else _finished(store, spec, folder)
    if fingerprint is None:
        fingerprint = invert_fingerprint(spec, folder)
    plan = partial(plan_shards, store, spec.input, spec.workers.batch_size, spec.workers.count)
    machine = machine_for(spec.workers.gpus)
    inputs = expanded(spec.input)
    units, key = _open(store, spec, fingerprint, machine, inputs, plan)
    task = InvertTask(spec, weights_of(spec.model, folder, fingerprint), fingerprint, machine, key)
    return _work(store, units, retry, task, spec.workers, per_row=1)


def _finished(store: Store, spec: InvertSpec, folder: Path) -> dict[str, Any] | None:
    """Return the fingerprint of the store if it holds this inversion, finished, by the same weights; else None.

    Then there is nothing to compute, and the model's libraries, whose import takes seconds, are not needed.
    """
    if not store.has("job.json") or not is_planned(store):
        return None
    job = store.job()
    fingerprint: dict[str, Any] = job["fingerprint"]
    if job["kind"] != "invert" or _decisive(stored_spec(store, InvertSpec, job["spec"])) != _decisive(spec):
        return None
    done = store.committed([])
    if any(unit.unit not in done for unit in read_units(store)):
        return None
    digest = weights_digest(folder, spec.model.variant, lora_of(spec.model))
    return fingerprint if fingerprint.get("weights") == digest else None


def _decisive(spec: InvertSpec) -> dict[str, Any]:
    """Return the fields that decide what a row has, with `dtype: auto` resolved."""
    fields = spec.model_dump(include={"input": True, "model": True, "sampler": True, "image": True})
    fields["model"]["dtype"] = spec.dtype
    return fields | {"batch_size": spec.workers.batch_size, "gpus": spec.workers.gpus}


def run_edit(spec: EditSpec, edits: Edits, *, retry: Sequence[str] = ()) -> Ran:
    """Edit the rows of the latent store `spec.latents` into the store `spec.output`, or finish what is missing.

    With `retry`, only the pictures that were rejected there for one of these errors are tried again. Raises EditError,
    SelectionError, StoreError, StorageError, RetryError, ModelError, WorkersFailed.
    """
    store, units, task = open_edit(spec, edits)
    return _work(store, units, retry, task, spec.workers, per_row=len(edits.variants))


def open_edit(spec: EditSpec, edits: Edits) -> tuple[Store, list[Unit], EditTask]:
    """Return the store of an edit, its units and its task, after planning the edit or extending its plan.

    Raises EditError, SelectionError, StoreError, StorageError, ModelError.
    """
    latents, wanted = Store(spec.latents), read_selection(spec)
    task, fingerprint = edit_task(spec, latents, edits, wanted)
    store = Store(spec.output, create=True)
    cut_for = fingerprint["batch_size"], spec.workers.count
    files: Any = {"prompts": edits.listed, "masks": edits.masks, "mask_files": edits.mask_files}
    files["per_caption"] = edits.per_caption

    def plan() -> list[Unit]:
        if task.rows is None:
            return part_units(latents, *cut_for, per_row=edits.per_caption)
        return plan_rows(store, latents, wanted, task.rows, *cut_for, **files)

    extend = partial(extend_plan, store, latents, wanted, *cut_for, **files)
    more = {"variants_per_row": len(edits.variants), "rows": task.rows}
    units, key = _open(store, spec, fingerprint, task.machine, [spec.latents, *spec.files], plan, extend, **more)
    shown = spread(units, spec.contact_sheet)
    return store, units, dataclasses.replace(task, key=key, rows=planned_rows(store.job()), shown=shown)


def edit_task(spec: EditSpec, latents: Store, edits: Edits, wanted: Selection) -> tuple[EditTask, dict[str, Any]]:
    """An edit's task and its fingerprint. Raises EditError where the store cannot serve a variant."""
    job, weights = inverted_with(latents)
    machine = machine_like(stored_machine(latents, job), spec.workers.gpus, "edited")
    note_float16(weights.dtype, machine.gpus)
    made = job["fingerprint"]
    schedule = schedule_of(made)
    for variant in edits.variants:
        executed_steps(variant, made["steps"], schedule, made["sampler"])
        if variant.negative_prompt and variant.guidance_scale is None and made["guidance_scale"] == 1:
            raise EditError(
                f"edit {variant.name!r} has a negative_prompt, which guidance alone heeds, and {latents.location} was "
                "inverted without (its guidance_scale is 1): give the edit a guidance_scale"
            )
        if variant.negative_prompt and "guidance" in made:
            raise EditError(
                f"edit {variant.name!r} has a negative_prompt, which classifier-free guidance alone heeds, and the "
                f"model of {latents.location} is guided without: leave it out"
            )
    as_before = list[bool]()
    if held := [variant.name for variant in edits.variants if variant.control]:
        from edict.model import COMPILED, uncontrollable
        from edict.models import DirectModel, describe
        from pipeline.edit import check_control

        model = describe(locate(weights.path, weights.revision, weights.variant))
        if not isinstance(model, DirectModel) or not model.controllable:
            raise EditError(f"edit {held[0]!r}: {uncontrollable(model)}")
        if weights.compile:
            raise EditError(f"edit {held[0]!r}: {COMPILED}")
        as_before = [check_control(v, model, made["steps"], schedule, made["sampler"]) for v in edits.variants]
    batch_size = spec.workers.batch_size or made["batch_size"]
    if batch_size < 2 and held:
        raise EditError(
            "workers.batch_size: batches are of 1, and an edit with control shares its batch with the picture it is "
            "held to; give 2 or more"
        )
    fingerprint = {
        "latents": made,
        **wanted.fingerprint(),
        "edits": edits.fingerprint,
        "format": spec.images.format,
        "batch_size": batch_size,
    }
    if spec.images.quality is not None:  # jobs from before there was a choice go on as they are
        fingerprint["quality"] = spec.images.quality
    if not all(as_before):  # A job that an earlier version began would otherwise mix two kinds of edits.
        fingerprint["control"] = "prompt-to-prompt"
    rows, fit = digest_of(fingerprint) if spec.planned_rows else None, fit_of(made)
    task = EditTask(spec, rows, edits.prompts, len(edits.variants), {}, weights, fit, made["steps"], machine)
    return task, fingerprint


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
    spec: InvertSpec | EditSpec,
    fingerprint: dict[str, Any],
    machine: Machine,
    inputs: Iterable[str],
    plan: Callable[[], list[Unit]],
    extend: Callable[[], None] = lambda: None,
    **more: Any,
) -> tuple[list[Unit], JobKey]:
    """Return the units and the key of a job. If it has no plan, make one; otherwise extend the plan if needed.

    An input that cannot be planned leaves no job.json, so that the spec can be corrected.
    """
    check_output(store, inputs)
    check_job(store, spec.kind, fingerprint, machine)
    if not (has_plan := is_planned(store)) and next(store.names("commits"), None) is not None:
        raise StoreError(
            f"{store.location}: has commits but no plan/units.parquet; put it back, or give another output"
        )
    planned = None if has_plan else plan()
    open_job(store, spec.kind, spec.model_dump(mode="json"), fingerprint, machine, **more)
    if planned is not None:
        write_units(store, planned)
    extend()
    return read_units(store), store.key()


def _pending(store: Store, units: Sequence[Unit], retry: Sequence[str]) -> list[Unit]:
    """The units that no commit names yet; for a retry, those with rejects of these errors, cut down to them.

    Raises RetryError where the store has no such rejects.
    """
    if not retry:
        refused = list[CommitRefused]()
        done = store.committed(refused)
        for commit in refused:
            print(f"note: {commit.path} {commit.reason}: {commit.remedy}", file=sys.stderr)
        store.discard(refused)
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
        dataclasses.replace(
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


def _work(
    store: Store,
    units: Sequence[Unit],
    retry: Sequence[str],
    task: InvertTask | EditTask,
    workers: Workers,
    *,
    per_row: int,
) -> Ran:
    """Process what is missing, or to be tried again, and finish."""
    failures, finished = list[str](), list[str]()
    pending = _pending(store, units, retry)
    before = len(units) - len(pending)

    def committed(error: BaseException) -> str | None:
        if isinstance(error, JobError) and not finished and not failures:
            return None
        if retry:
            return f"{len(finished)} units were retried"
        # "at least": a worker may have committed a unit that it has not reported to this process
        return f"at least {before + len(finished)} of {len(units)} units are committed"

    with noting(committed):
        while pending:
            overtaken = _process(store, len(units), pending, retry, task, workers, failures, finished, per_row=per_row)
            pending, _ = _retried(store, overtaken, retry) if overtaken else ([], None)
            if pending:
                print(
                    f"note: another retry committed {len(pending)} units first; their remaining rejects are retried",
                    file=sys.stderr,
                )
        ran = _finish(store, failures, task.key)
    return dataclasses.replace(ran, shortfall=shortfall(ran.status, task.spec.rejects.max_share))


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


def _process(
    store: Store,
    planned: int,
    pending: Sequence[Unit],
    retry: Sequence[str],
    task: InvertTask | EditTask,
    workers: Workers,
    failures: list[str],
    finished: list[str],
    *,
    per_row: int,
) -> list[Unit]:
    """Run units on workers. Return the units of a retry that must be tried again, because another retry came first."""
    from pipeline.metrics import Metrics
    from pipeline.pool import Pool

    if retry and isinstance(task, InvertTask):
        index_again(store, pending)
    store.delete("report.html")  # it would describe the store as it was; _finish writes it where it is absent
    overtaken: list[Unit] = []
    kind, machine = task.spec.kind, task.machine
    total, rejected = sum(len(unit.only) or unit.count * per_row for unit in pending), 0
    count = min(workers.count, len(pending))
    hopes, barren = not retry, list[Mapping[str, int]]()
    with (
        connected(count, machine, needed=min(workers.needed, count)),
        Journal(store) as journal,
        Ledger(store, 0 if retry else planned, [unit.unit for unit in pending], task.key) as ledger,
        Progress(kind, total, "images") as progress,
    ):
        metrics = Metrics(kind, journal.run)
        pool = Pool(
            pending, _worker_class(task), task, count=count, cpus=machine.threads, gpus=machine.gpus, record=journal
        )
        journal.state = pool.state

        def rejects() -> str:
            return f"{rejected} rejected" if rejected else ""

        for outcome in pool.outcomes():
            if outcome is None:
                state = pool.state()
                metrics.state(state)
                progress.advance(0, state["waits_for"] or rejects())
            elif outcome.error is not None:
                failures.append(f"unit {outcome.unit.unit} ({outcome.unit.source}): {outcome.error}")
            else:
                done: Done = outcome.result
                if done.lost:
                    overtaken.append(outcome.unit)
                    continue
                metrics.done(done)
                finished.append(outcome.unit.unit)
                if not retry:
                    ledger.done(outcome.unit.unit)
                rejected += done.rejected
                progress.advance(done.images, rejects())
                hopes = hopes and not done.ok
                if hopes and done.model_errors and progress.done < total:
                    barren.append(done.model_errors)
                    _check_first(store, barren)
            journal.tick()
    return overtaken


def _worker_class(task: InvertTask | EditTask) -> type:
    """Import the class of a job's workers, and with it torch, which a finished job does not need."""
    if isinstance(task, InvertTask):
        from pipeline.invert import InvertWorker

        return InvertWorker
    from pipeline.edit import EditWorker

    return EditWorker


def _finish(store: Store, failures: list[str], key: JobKey) -> Ran:
    """A complete run leaves only files that a commit names, and its report."""
    store.check_key(key)
    store.sweep()
    found = status(store)
    if not store.has("report.html"):
        write_report(store)
    pages = {"report": "report.html", "sheet": "contact_sheet.png"}
    location = without_secrets(store.location).rstrip("/")
    return Ran(found, failures, pages={name: f"{location}/{file}" for name, file in pages.items() if store.has(file)})
