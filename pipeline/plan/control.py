"""Attention control of edits: from the spec to the model. It imports torch, so that other planning need not."""

import torch

from edict import Blend, Control
from edict.control import ineffective_reason, matches_earlier_versions
from edict.models import DirectModel
from edict.models.unsupported import NO_CONTROL_IF_COMPILED, no_control
from edict.schedule import Schedule
from pipeline.plan.edit_task import EditError, Variant, edit_steps
from pipeline.plan.invert_task import InvertTask
from schemas.specs import ControlSpec


def to_control(spec: ControlSpec, masks: torch.Tensor | None = None) -> Control:
    """Return the control of a spec. `masks`, bool [N, H, W] at the latents' size, replace the words of its mask."""
    words = spec.mask.words if spec.mask else None
    blend: Blend | torch.Tensor | None = masks
    if spec.mask and words is not None:
        named = None if words == "changed" else tuple(words)
        blend = Blend(named, spec.mask.threshold, spec.mask.start)
    return Control(spec.cross_attention, spec.self_attention, spec.weights, blend)


def check_controls(inversion: InvertTask, schedule: Schedule, controlled: list[Variant], batch_size: int) -> bool:
    """Check that the attention control of these variants can have an effect on rows of an inversion.

    Return whether earlier versions make the same edits.

    Raises:
        EditError: The model has no attention control, the network is compiled, a batch has only one image, or a part of
            a control has no effect.
    """
    model, name = inversion.model(), controlled[0].name
    if not isinstance(model, DirectModel) or not model.controllable:
        raise EditError(f"edit {name!r}: {no_control(model)}")
    if inversion.fingerprint.compile:
        raise EditError(f"edit {name!r}: {NO_CONTROL_IF_COMPILED}")
    unchanged = [_check_control(variant, model, inversion, schedule) for variant in controlled]
    if batch_size < 2:
        raise EditError(
            "workers.batch_size: batches are of 1, and an edit with control shares its batch with the image that "
            "controls it. Give 2 or more"
        )
    return all(unchanged)


def _check_control(variant: Variant, model: DirectModel, inversion: InvertTask, schedule: Schedule) -> bool:
    """Check one variant, and return whether earlier versions make the same edit. Raises EditError."""
    assert variant.control is not None
    steps = edit_steps(variant, inversion.fingerprint.sampling, schedule)
    has_given_mask = variant.control.mask is not None and variant.control.mask.words is None
    control = to_control(variant.control, torch.ones(1, 1, 1, dtype=torch.bool) if has_given_mask else None)
    if (reason := ineffective_reason(control, steps, model.latent_side, model.attention_sides)) is not None:
        raise EditError(f"edit {variant.name!r}, control: {reason}")
    return matches_earlier_versions(control, steps, model.latent_side, model.attention_sides)
