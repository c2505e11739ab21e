"""Count the network calls of inversions and edits. A call is counted per image and per branch of guidance."""

from collections.abc import Container, Sequence
from functools import partial

from edict.samplers import SAMPLERS
from pipeline.plan.edit_task import EditTask, Variant


def network_calls(timesteps: Sequence[float], timesteps_without_cfg: Container[float], *guidance_scales: float) -> int:
    """Return the number of network calls at these timesteps, with the branches that these guidance scales need."""
    branches = len(set(guidance_scales)) if {0, 1}.issuperset(guidance_scales) else 2
    return sum(1 if timestep in timesteps_without_cfg else branches for timestep in timesteps)


def branching_scale(has_negative: bool, guidance_scale: float) -> float:
    """Return the guidance scale, or 1 for a model whose guidance has no second branch."""
    return guidance_scale if has_negative else 1.0


def edit_calls(changed: Sequence[tuple[Variant, str]], task: EditTask, has_negative: bool) -> int:
    """Return the network calls of one row: the steps of each edit, and the regeneration up to the last branch point.

    Controlled edits with the same steps, guidance scale and control share a batch with the regeneration of the row,
    which is counted once.
    """
    sampling, schedule = task.inversion.fingerprint.sampling, task.schedule
    timesteps_without_cfg = schedule.timesteps_outside(sampling.guidance_interval)
    num_steps, timesteps_of = schedule.num_steps, partial(SAMPLERS[sampling.name].evaluated_timesteps, schedule)
    row_scale = branching_scale(has_negative, sampling.known_guidance_scale)
    fewest_steps, calls = num_steps, 0
    groups = set[tuple[int, float, str]]()
    for variant, _ in changed:
        steps = task.steps_of(variant)
        timesteps = timesteps_of(num_steps - steps, num_steps)
        edit_scale = variant.guidance_scale
        scale = row_scale if edit_scale is None else branching_scale(has_negative, edit_scale)
        fewest_steps = min(fewest_steps, steps)
        if variant.control is None:
            calls += network_calls(timesteps, timesteps_without_cfg, scale)
        else:
            group = steps, scale, variant.control.model_dump_json()
            slots = 1 if group in groups else 2
            calls += slots * network_calls(timesteps, timesteps_without_cfg, scale, row_scale)
            groups.add(group)
    return calls + network_calls(timesteps_of(0, num_steps - fewest_steps), timesteps_without_cfg, row_scale)
