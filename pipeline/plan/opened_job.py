"""A job that is ready to run: its store is open, its plan is written, and its pending units are known."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pipeline.plan.edit_plan import PlanInput, extend_plan, plan_rows
from pipeline.plan.edit_task import Edits, EditTask, edit_task
from pipeline.plan.invert_task import InvertTask, check_supported, invert_task
from pipeline.plan.job import check_job, check_output, open_job
from pipeline.plan.machine import note_float16
from pipeline.plan.pending_units import pending_units
from pipeline.plan.selection import read_selection
from pipeline.plan.units import expanded, plan_shards, spread
from pipeline.store.errors import StoreError
from pipeline.store.latents import stored_schedule
from pipeline.store.plan import Unit, is_planned, parts_of, read_units, write_units
from pipeline.store.store import Store
from schemas.job import JobRecord
from schemas.specs import EditSpec, InvertSpec

Task = InvertTask | EditTask
"""Everything that the workers of a job need. Both kinds have a `spec`, a `machine`, a `record` and a `key`."""


@dataclass(frozen=True)
class OpenedJob:
    """A planned job: its store, its task, its number of planned units, and the `pending` ones.

    `retry` has the errors whose rejects are tried again; it is empty for a run that finishes the missing units.
    """

    store: Store
    task: Task
    units: int
    pending: Sequence[Unit]
    retry: Sequence[str] = ()


def open_invert(spec: InvertSpec, retry: Sequence[str] = ()) -> OpenedJob:
    """Open an inversion, and plan it if it has no plan.

    If nothing is pending, the model is not checked, so that its libraries need not be imported.

    Raises:
        PlanError: The input cannot be planned.
        StoreError: The store is damaged or of another job (JobChanged).
        ModelError: The model does not exist or is not supported.
        NoSchedule: The model does not support the spec's steps or guidance interval.
        RetryError: The store has no rejects of these errors.
    """
    note_float16(spec.dtype, spec.workers.gpus)
    task = invert_task(spec, check=False)  # before the store is created: a wrong path of the model leaves no folder
    store = Store(spec.output, create=True)
    if not (has_plan := is_planned(store)):
        check_supported(task)
    plan = partial(plan_shards, store, spec.input, spec.workers.batch_size, spec.workers.count)
    record, units = open_store(store, task.record, expanded(spec.input), plan)
    task = replace(task, record=record, key=store.key(record))
    pending = pending_units(store, units, retry)
    if pending and has_plan:
        check_supported(task)
        task = replace(task, schedule=stored_schedule(store))
    return OpenedJob(store, task, len(units), pending, retry)


def open_edit(spec: EditSpec, edits: Edits, retry: Sequence[str] = ()) -> OpenedJob:
    """Open an edit, and plan it if it has no plan. Extend its plan if the latent store has more rows now.

    Raises:
        EditError: The latent store does not support an edit.
        SelectionError: The latent store does not have the selected rows.
        StoreError: A store is damaged, not finished, or of another job (JobChanged).
        StorageError: A mask file cannot be read.
        ModelError: The model does not exist any more.
        RetryError: The store has no rejects of these errors.
    """
    latents, selection = Store(spec.latents), read_selection(spec)
    task = edit_task(spec, latents, edits, selection)
    store, rows = Store(spec.output, create=True), task.record.rows
    plan_input = PlanInput(
        latents,
        selection,
        task.record.edit.batch_size,
        spec.workers.count,
        edits.listed,
        edits.masks,
        edits.mask_files,
        per_caption=edits.per_caption,
    )

    def plan() -> list[Unit]:
        return plan_input.cut(parts_of(latents)) if rows is None else plan_rows(store, rows, plan_input)

    def extend(record: JobRecord) -> None:
        extend_plan(store, record, plan_input)

    record, units = open_store(store, task.record, [spec.latents, *spec.files], plan, extend)
    task = replace(task, record=record, key=store.key(record), shown=spread(units, spec.contact_sheet))
    return OpenedJob(store, task, len(units), pending_units(store, units, retry), retry)


def open_store(
    store: Store,
    record: JobRecord,
    inputs: Iterable[str],
    plan: Callable[[], list[Unit]],
    extend: Callable[[JobRecord], None] = lambda record: None,
) -> tuple[JobRecord, list[Unit]]:
    """Return the record of the store's job and its units, after calling `plan` if it has no plan, and then `extend`.

    job.json is written after planning. So an input that cannot be planned leaves none, and its spec can be corrected.

    Raises:
        StoreError: The output cannot be used (OutputRefused), the store has another job (JobChanged), or its plan is
            missing.
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
