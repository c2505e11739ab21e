"""Run a job: open its store, plan it, process its units and finish it, in the same way for inversions and edits."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import JobError, add_note_on_error
from pipeline.execute.driver import DriverResult, process_units
from pipeline.inspect.report.page import write_report
from pipeline.inspect.status import Status, status
from pipeline.plan.edit_task import Edits
from pipeline.plan.opened_job import OpenedJob, open_edit, open_invert
from pipeline.plan.pending_units import units_with_rejects
from pipeline.store.job_record import JobKey
from pipeline.store.store import Store
from schemas.locations import without_secrets
from schemas.specs import EditSpec, InvertSpec


@dataclass(frozen=True)
class RunResult:
    """The result of a run: the store's status, and a message for each unit that failed in the run.

    `shortfall` is the reason why a complete job is not a success: it has no row, or too many rejects. `pages` has the
    locations of the report (`report`) and of the contact sheet (`sheet`), if they exist.
    """

    status: Status
    failures: list[str]
    shortfall: str | None = None
    pages: Mapping[str, str] = field(default_factory=dict)


def run_invert(spec: InvertSpec, *, retry: Sequence[str] = ()) -> RunResult:
    """Invert every sample of the input into the store `spec.output`, or finish what is missing there.

    With `retry`, only the samples that were rejected there with one of these errors are tried again. If nothing is
    missing, the model's libraries, whose import takes seconds, are not imported.

    Raises:
        PlanError: The input cannot be planned.
        StoreError: The store is damaged or of another job (JobChanged).
        RetryError: The store has no rejects of these errors.
        ModelError: The model does not exist or is not supported.
        WorkersFailed: No worker starts, or several units in a row fail.
        ModelFails: The first units have no row, because of the model.
    """
    return _run(open_invert(spec, retry))


def run_edit(spec: EditSpec, edits: Edits, *, retry: Sequence[str] = ()) -> RunResult:
    """Edit the rows of the latent store `spec.latents` into the store `spec.output`, or finish what is missing there.

    With `retry`, only the images that were rejected there with one of these errors are tried again.

    Raises:
        EditError: The latent store does not support an edit.
        SelectionError: The latent store does not have the selected rows.
        StorageError: A mask file cannot be read.
        StoreError, RetryError, ModelError, WorkersFailed, ModelFails: See `run_invert`.
    """
    return _run(open_edit(spec, edits, retry))


def _run(job: OpenedJob) -> RunResult:
    """Process the pending units of a job, and finish it."""
    result = DriverResult()

    def progress_note(error: BaseException) -> str | None:
        if isinstance(error, JobError) and not result.finished and not result.failures:
            return None
        if job.retry:
            return f"{len(result.finished)} units were retried"
        # "at least": a worker may have committed a unit that it has not reported to this process.
        committed = job.units - len(job.pending) + len(result.finished)
        return f"at least {committed} of {job.units} units are committed"

    with add_note_on_error(progress_note):
        pending = job.pending
        while pending:
            superseded = process_units(job, pending, result)
            pending = units_with_rejects(job.store, superseded, job.retry)[0] if superseded else []
            if pending:
                print(
                    f"note: another retry committed {len(pending)} units first; their remaining rejects are retried",
                    file=sys.stderr,
                )
        found = finish(job.store, job.task.key)
    return RunResult(
        found, result.failures, shortfall(found, job.task.spec.rejects.max_share), _page_locations(job.store)
    )


def finish(store: Store, key: JobKey) -> Status:
    """Remove the files that no commit names, write the report if it does not exist, and return the status.

    Raises:
        JobReplaced: The store is now another job's.
    """
    store.check_key(key)
    store.remove_orphan_files()
    found = status(store)
    if not store.has("report.html"):
        write_report(store)
    return found


def shortfall(found: Status, max_share: float | None) -> str | None:
    """Return the reason why a complete job is not a success, or None if it is one."""
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


def _page_locations(store: Store) -> dict[str, str]:
    location = without_secrets(store.location).rstrip("/")
    files = {"report": "report.html", "sheet": "contact_sheet.png"}
    return {name: f"{location}/{file}" for name, file in files.items() if store.has(file)}
