"""PRX, in latents and in pixels."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    PRXPipeline,
    PRXPixelPipeline,
    PRXTransformer2DModel,
)

from tests.recipes.trial import Trial, normal, prompt_mask, random, recipe

TRANSFORMER = {
    "context_in_dim": 32,
    "hidden_size": 32,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 1,
    "axes_dim": [8, 8],
}


def prompts(dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments of a call with one prompt: with guidance, these pipelines of diffusers take no more."""
    return {
        "prompt_embeds": normal(1, 5, 32, dtype=dtype),
        "prompt_attention_mask": prompt_mask(torch.bool)[1:],
        "negative_prompt_embeds": normal(1, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_attention_mask": prompt_mask(torch.bool)[1:],
        "height": 8,
        "width": 8,
        "use_resolution_binning": False,
    }


@recipe("PRXPipeline")
def prx(dtype: torch.dtype) -> Trial:
    pipe = PRXPipeline(
        transformer=random(PRXTransformer2DModel, dtype, in_channels=4, **TRANSFORMER),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=None,
        tokenizer=None,
        vae=random(AutoencoderKL, dtype, block_out_channels=(32,), latent_channels=4, shift_factor=0.1),
    )
    return Trial(pipe, (1, 4, 8, 8), prompts(dtype), {"guidance_scale": 4.0}, {"guidance_scale": 1.0})


@recipe("PRXPixelPipeline")
def prx_pixel(dtype: torch.dtype) -> Trial:
    pipe = PRXPixelPipeline(
        transformer=random(
            PRXTransformer2DModel, dtype, in_channels=3, **TRANSFORMER, bottleneck_size=16, resolution_embeds=True
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=None,
        tokenizer=None,
    )
    return Trial(pipe, (1, 3, 8, 8), prompts(dtype), {"guidance_scale": 4.0}, {"guidance_scale": 1.0})
