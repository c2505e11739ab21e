"""The editing methods that `edict eval edits` compares: EDICT, DDIM inversion, attention control and SDEdit."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from PIL import Image

from edict import EDICT, Control, Pair
from edict.control import ineffective_reason
from edict.integration import solve_floats
from edict.samplers import sampling
from jobs.evaluation.errors import EvaluationError
from jobs.evaluation.truth import ReferenceEdit
from schemas.sampling import count_executed_steps


class Setting(NamedTuple):
    """The strength of an edit, and the guidance scales of its inversion and of its generation.

    SDEdit has no inversion, so it ignores `inverted_at`.
    """

    strength: float
    inverted_at: float
    edited_at: float


Edited = tuple[torch.Tensor, set[int]]
"""Latents [N, C, H, W], and the indices of the samples that failed."""
Method = Callable[[EDICT, Pair, list[str], list[str], float], Edited]
"""(model, prepared clean pair, source captions, target captions, guidance scale of the edit) -> edited latents."""


def by_edict(model: EDICT, start: Pair, sources: list[str], targets: list[str], guidance_scale: float) -> Edited:
    """Edit by EDICT: invert under the source's caption, and generate under the target's."""
    noise, faults = model.integrate(start, sources, 0)
    edited, more = model.integrate(noise, targets, start.position, guidance_scale=guidance_scale)
    return edited.to_float()[0], {*faults, *more}


@torch.inference_mode()
def by_ddim(
    model: EDICT,
    start: Pair,
    sources: list[str],
    targets: list[str],
    guidance_scale: float,
    *,
    sampler: str,
) -> Edited:
    """Edit by DDIM: invert under the source's caption, and generate under the target's, along the same schedule.

    `sampler` selects the convention of the inversion: `ddim` or `ddim_euler` (see `edict.samplers.ddim`).
    """
    schedule, predict = start.schedule, model.direct.predictor(sources, start.guidance_scale)
    noise = solve_floats(start.to_float()[0], sampler, schedule, predict, schedule.num_steps, 0)
    predict = model.direct.predictor(targets, guidance_scale)
    return solve_floats(noise, sampler, schedule, predict, 0, schedule.num_steps), set()


def by_control(model: EDICT, start: Pair, sources: list[str], targets: list[str], guidance_scale: float) -> Edited:
    """Edit by EDICT with prompt-to-prompt attention control. Each source is regenerated in the batch of its edit."""
    noise, faults = model.integrate(start, sources, 0)
    prompts = [[target] for target in targets]
    both, more = model.edit(noise, sources, prompts, control=Control(), guidance_scale=guidance_scale)
    # The order is: source, edit, source, edit, ...
    return both[1::2].to_float()[0], {*faults, *(i // 2 for i in more)}


@torch.inference_mode()
def by_sdedit(model: EDICT, start: Pair, sources: list[str], targets: list[str], guidance_scale: float) -> Edited:
    """Edit by SDEdit (Meng et al., 2108.01073): add seeded noise up to the strength, then denoise by DDIM."""
    schedule, alpha = start.schedule, start.schedule.alpha(0)
    latents = start.to_float()[0]
    noise = torch.randn(latents.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noised = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise.to(latents.device)
    predict = model.direct.predictor(targets, guidance_scale)
    return solve_floats(noised, "ddim", schedule, predict, 0, schedule.num_steps), set()


METHODS: dict[str, Method] = {
    "EDICT": by_edict,
    "DDIM": partial(by_ddim, sampler="ddim"),
    "DDIM Euler": partial(by_ddim, sampler="ddim_euler"),
    "control": by_control,
    "SDEdit": by_sdedit,
}
"""The methods by their names in the tables. "control" is EDICT with attention control."""


def check_control(model: EDICT, steps: int, strength: float) -> None:
    """Check that attention control has an effect on edits with these steps.

    Raises:
        EvaluationError: Attention control has no effect.
    """
    network = model.direct
    reason = ineffective_reason(
        Control(), count_executed_steps(steps, strength), network.latent_side, network.attention_sides
    )
    if reason is not None:
        raise EvaluationError(
            f"attention control has no effect at strength {strength:g} with {steps} steps: {reason}. Give more --steps "
            "or a higher strength"
        )


def apply_method(
    model: EDICT, method: Method, setting: Setting, edits: Sequence[ReferenceEdit], *, steps: int, batch: int
) -> tuple[list[Image.Image], list[bool]]:
    """Make at most `batch` edits in one batch. Return their images, and for each whether it failed."""
    clean = model.encode([edit.source.image for edit in edits])
    settings = sampling(steps=steps, strength=setting.strength, guidance_scale=setting.inverted_at)
    start = model.prepare(clean, settings, batch)
    sources, targets = [edit.source.caption for edit in edits], [edit.target.caption for edit in edits]
    latents, faults = method(model, start, sources, targets, setting.edited_at)
    return model.decode(latents), [i in faults for i in range(len(edits))]
