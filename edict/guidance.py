"""Noise prediction with classifier-free guidance (Ho & Salimans, 2207.12598), both branches in one network call."""

import torch
from diffusers import UNet2DConditionModel

from edict.sampler import Predict


def guided(unet: UNet2DConditionModel, text: torch.Tensor, empty: torch.Tensor, guidance_scale: float) -> Predict:
    """eps = eps(empty) + guidance_scale * (eps(text) - eps(empty)), combined in float32.

    text [N, L, D] and empty [1, L, D] (or [N, L, D], negative captions) are text encoder states. Guidance 1 needs only
    the conditional branch and guidance 0 only the unconditional one; the other is then not computed.
    """
    unconditional = empty.expand_as(text).contiguous()  # as negative captions are
    if guidance_scale == 1:
        states = text
    elif guidance_scale == 0:
        states = unconditional
    else:
        states = torch.cat([unconditional, text])

    def predict(latents: torch.Tensor, timestep: int) -> torch.Tensor:
        latents = latents.to(unet.dtype).contiguous()  # one memory layout, or the same values give other last bits
        if len(states) == len(latents):
            return unet(latents, timestep, states).sample.float()
        without, with_text = unet(torch.cat([latents, latents]), timestep, states).sample.float().chunk(2)
        return without + guidance_scale * (with_text - without)

    return predict
