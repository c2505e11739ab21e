"""From a spec to a run."""

from collections.abc import Sequence

from jobs.prompts import resolve
from pipeline.plan.job import stored_spec
from pipeline.run import RunResult, run_edit, run_invert
from pipeline.store.store import Store
from schemas.specs import KINDS, EditSpec, InvertSpec


def run_spec(spec: InvertSpec | EditSpec, *, retry: Sequence[str] = ()) -> RunResult:
    """Run a job, finish what is missing of it, or `retry` its rejects of these errors. Raises JobError, ModelError."""
    if isinstance(spec, InvertSpec):
        return run_invert(spec, retry=retry)
    return run_edit(spec, resolve(spec.edits), retry=retry)


def run_retry(location: str, errors: Sequence[str]) -> RunResult:
    """Try the rejects of a store again, by its own spec. Raises JobError, ModelError."""
    store = Store(location)
    job = store.job()
    spec = stored_spec(store, KINDS[job.kind], job.spec)
    return run_spec(spec.model_copy(update={"output": store.location}), retry=errors)
