"""Run a job from its spec."""

from collections.abc import Sequence

from jobs.prompts import resolve
from pipeline.plan.job import stored_spec
from pipeline.run import RunResult, run_edit, run_invert
from pipeline.store.store import Store
from schemas.specs import KINDS, EditSpec, InvertSpec


def run_spec(spec: InvertSpec | EditSpec, *, retry: Sequence[str] = ()) -> RunResult:
    """Run a job, or finish an incomplete one. With `retry`, try its rejects of these error classes again.

    Raises:
        JobError, ModelError: The job cannot run, or cannot be completed.
    """
    if isinstance(spec, InvertSpec):
        return run_invert(spec, retry=retry)
    return run_edit(spec, resolve(spec.edits), retry=retry)


def run_retry(location: str, errors: Sequence[str]) -> RunResult:
    """Try the rejects of a store again, by the spec that the store has.

    Raises:
        JobError, ModelError: The job cannot run, or has no such rejects.
    """
    store = Store(location)
    job = store.job()
    spec = stored_spec(store, KINDS[job.kind], job.spec)
    return run_spec(spec.model_copy(update={"output": store.location}), retry=errors)
