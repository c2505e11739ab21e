"""The prediction with classifier-free guidance (Ho & Salimans, 2207.12598), both branches in one network call."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

import torch

from edict.integration import Predict

if TYPE_CHECKING:
    from edict.models.direct import Conditions, DirectModel


def guided(
    model: DirectModel,
    text: Conditions,
    empty: Conditions,
    guidance_scale: float,
    timesteps_without_cfg: Container[float] = (),
) -> Predict:
    """eps = eps(empty) + guidance_scale * (eps(text) - eps(empty)), combined in float32 or 64.

    `text` are conditions of N rows, `empty` of one (or of N, negative captions). Guidance 1 needs only the conditional
    branch and guidance 0 only the unconditional one; the other is then not computed. At the timesteps `unguided` it is
    the conditional one alone (Kynkaanniemi et al., 2404.07724). A model that takes the scale itself, or knows no
    guidance, has but the conditional one.
    """
    if model.guidance == "none":
        conditions, branches = text, 1
    elif model.guidance == "embedded":
        conditions, branches = embedded(text, guidance_scale), 1
    elif guidance_scale == 1:
        conditions, branches = text, 1
    elif guidance_scale == 0:
        conditions, branches = expanded(empty, text), 1
    else:
        conditions, branches = joined(expanded(empty, text), text), 2

    def predict(latents: torch.Tensor, timestep: float) -> torch.Tensor:
        if timestep in timesteps_without_cfg:
            return model.predict(latents, timestep, text)
        if branches == 1:
            return model.predict(latents, timestep, conditions)
        without, with_text = model.predict(torch.cat([latents, latents]), timestep, conditions).chunk(2)
        return without + guidance_scale * (with_text - without)

    return predict


def expanded(empty: Conditions, text: Conditions) -> Conditions:
    """The unconditional branch's conditions, a row for each of the text's, as negative captions have."""
    return {name: empty[name].expand_as(rows).contiguous() for name, rows in text.items()}


def joined(first: Conditions, second: Conditions) -> Conditions:
    """The rows of both."""
    return {name: torch.cat([rows, second[name]]) for name, rows in first.items()}


def embedded(text: Conditions, guidance_scale: float) -> Conditions:
    """The conditions of a guidance-distilled network: `guidance`, float32 [N], among them."""
    rows = next(iter(text.values()))
    return {**text, "guidance": torch.full((len(rows),), guidance_scale, dtype=torch.float32, device=rows.device)}
