"""The settings of attention control, the number of steps that they act in, and whether they have an effect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from schemas.sampling import count_executed_steps

SD1_ATTN_TOKENS = 16 * 16
"""The limit in the paper's code, in pixels of an attention map, for Stable Diffusion 1 with its 64x64 latents."""


@dataclass(frozen=True)
class Blend:
    """A mask made from cross-attention maps (LocalBlend in the paper's code). Outside it, an edit equals its base.

    A pixel is inside the mask if the attention to `words` exceeds `threshold` times its maximum. The mask is the union
    of those from the map of the base and the map of the edit. A map is the mean over heads, layers and the steps so
    far. `words` None means the words that the edit changes. The mask applies after the first `start` of the steps.
    """

    words: tuple[str, ...] | None = None
    threshold: float = 0.3
    start: float = 0.2


@dataclass(frozen=True)
class Control:
    """The settings of attention control: how closely an edit follows its base.

    `cross` and `self_` are shares of the edit's steps, counted from the first. In these steps the edit takes the
    cross-attention and self-attention probabilities of its base: int(cross * (steps + 1)) and int(self_ * steps) steps.

    `weights` multiply the attention to words of the edit's prompt, in the steps of `cross` (the paper's re-weighting).

    `blend` is a Blend, or a mask bool [E, H, W] at the size of the latents for E edits, row after row. An edit can
    differ from its base where the mask is True.
    """

    cross: float = 0.4
    self_: float = 0.6
    weights: Mapping[str, float] = field(default_factory=dict)
    blend: Blend | torch.Tensor | None = None

    def __post_init__(self) -> None:
        shares = {"cross": self.cross, "self_": self.self_}
        if isinstance(self.blend, Blend):
            shares |= {"blend.threshold": self.blend.threshold, "blend.start": self.blend.start}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}: give a share between 0 and 1")


def max_attn_tokens(latents: int) -> int:
    """Return the largest attention map, in pixels, that self-attention control and masks of words use.

    `latents` is the number of pixels of a latent. Finer layers draw the detail that an edit changes. The paper's code
    has 16x16 for 64x64 latents, a quarter of the side, so this gives 32x32 for SDXL's 128x128 latents. Small models,
    such as the shipped one, are controlled in every layer.
    """
    return max(SD1_ATTN_TOKENS, latents // 16)


def cross_steps(control: Control, steps: int) -> int:
    """Return the number of an edit's `steps` that take the base's cross-attention: int(share * (steps + 1)).

    The table of the paper's code has one entry more than there are steps.
    """
    return min(steps, count_executed_steps(steps + 1, control.cross))


def self_steps(control: Control, steps: int) -> int:
    """Return the number of an edit's `steps` that take the base's self-attention: int(share * steps)."""
    return count_executed_steps(steps, control.self_)


def ineffective_reason(control: Control, steps: int, latent_side: int, sides: Sequence[int]) -> str | None:
    """Return the error for the first setting without effect on an edit of `steps`, or None if all have an effect.

    `latent_side` is the side of the latents, and `sides` are the sides of the model's attention maps.
    """
    limit = max_attn_tokens(latent_side**2)
    has_usable_map = any(side**2 <= limit for side in sides)
    maps = ", ".join(f"{side}x{side}" for side in sides)
    too_fine = f"the model has no attention map of at most {limit} pixels (its maps: {maps})"
    if self_steps(control, steps) and not has_usable_map:
        return f"self-attention has no effect: {too_fine}. Set it to 0"
    if isinstance(control.blend, Blend):
        if not has_usable_map:
            return f"a mask of words has no effect: {too_fine}. Use a mask from files"
        if count_executed_steps(steps, control.blend.start) == steps:
            return f"the mask of words starts after all {steps} steps. Lower mask.start"
    if control.weights and not cross_steps(control, steps):
        return (
            f"weights have no effect: they act in the steps of cross-attention, and its share {control.cross:g} "
            f"gives 0 of {steps} steps. Raise the share"
        )
    if control.blend is None and not cross_steps(control, steps) and not self_steps(control, steps):
        return (
            f"the control has no effect: the shares {control.cross:g} (cross-attention) and {control.self_:g} "
            f"(self-attention) give 0 of {steps} steps, and there is no mask. Raise a share or the number of steps, or "
            "remove the control"
        )
    return None


def matches_earlier_versions(control: Control, steps: int, latent_side: int, sides: Sequence[int]) -> bool:
    """Return whether earlier versions of this package made the same integers for an edit.

    Earlier versions took the base's cross-attention in int(share * steps) steps, applied weights at every step, and
    limited maps to 16x16 for every model. The arguments are those of `ineffective_reason`.
    """
    has_larger_map = any(SD1_ATTN_TOKENS < side**2 <= max_attn_tokens(latent_side**2) for side in sides)
    uses_maps = self_steps(control, steps) > 0 or isinstance(control.blend, Blend)
    return (
        cross_steps(control, steps) == count_executed_steps(steps, control.cross)
        and (not control.weights or cross_steps(control, steps) == steps)
        and not (has_larger_map and uses_maps)
    )
