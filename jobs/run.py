"""From a spec to a run."""

import functools

from jobs.prompts import prompts, variants
from pipeline.run import Ran, run_edit, run_invert
from schemas.specs import EditSpec, InvertSpec


def run_spec(spec: InvertSpec | EditSpec) -> Ran:
    """Run a job, or finish what is missing of it. Raises JobError, ModelError."""
    if isinstance(spec, InvertSpec):
        return run_invert(spec)
    found = variants(spec.edits)
    return run_edit(spec, found, functools.partial(prompts, variants=found))
