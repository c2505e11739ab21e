"""Classifier-free guidance (Ho & Salimans, 2207.12598), with both branches in one network call."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

import torch

from edict.integration import Predict

if TYPE_CHECKING:
    from edict.models.direct import Conditions, DirectModel


def guided_predictor(
    model: DirectModel,
    text: Conditions,
    empty: Conditions,
    guidance_scale: float,
    timesteps_without_cfg: Container[float] = (),
) -> Predict:
    """Return the guided prediction: eps = eps(empty) + guidance_scale * (eps(text) - eps(empty)), float32 or float64.

    Scale 1 computes only the conditional branch, and scale 0 only the unconditional one. At `timesteps_without_cfg` the
    prediction is the conditional one (Kynkaanniemi et al., 2404.07724). A model without classifier-free guidance has
    only the conditional branch.

    Args:
        text: Conditions of N rows.
        empty: Conditions of one row, or of N rows with negative captions.
    """
    if model.guidance == "none":
        conditions, branches = text, 1
    elif model.guidance == "embedded":
        conditions, branches = embed_scale(text, guidance_scale), 1
    elif guidance_scale == 1:
        conditions, branches = text, 1
    elif guidance_scale == 0:
        conditions, branches = broadcast_conditions(empty, text), 1
    else:
        conditions, branches = concat_conditions(broadcast_conditions(empty, text), text), 2

    def predict(latents: torch.Tensor, timestep: float) -> torch.Tensor:
        if timestep in timesteps_without_cfg:
            return model.predict(latents, timestep, text)
        if branches == 1:
            return model.predict(latents, timestep, conditions)
        without, with_text = model.predict(torch.cat([latents, latents]), timestep, conditions).chunk(2)
        return without + guidance_scale * (with_text - without)

    return predict


def broadcast_conditions(empty: Conditions, text: Conditions) -> Conditions:
    """Return the conditions of the unconditional branch, with one row for each row of `text`."""
    return {name: empty[name].expand_as(rows).contiguous() for name, rows in text.items()}


def concat_conditions(first: Conditions, second: Conditions) -> Conditions:
    """Return the rows of both conditions."""
    return {name: torch.cat([rows, second[name]]) for name, rows in first.items()}


def embed_scale(text: Conditions, guidance_scale: float) -> Conditions:
    """Add the input of a guidance-distilled network to its conditions: `guidance`, float32 [N]."""
    rows = next(iter(text.values()))
    return {**text, "guidance": torch.full((len(rows),), guidance_scale, dtype=torch.float32, device=rows.device)}
