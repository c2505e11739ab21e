"""FLUX.2 and FLUX.2 Klein."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinKVPipeline,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)

from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": (4, 4, 4, 4),
}
SHAPE = (BATCH, 16, 16)
SIZE = {"height": 8, "width": 8}  # of latents, as the VAE does not downscale


def components(dtype: torch.dtype, *, guidance_embeds: bool) -> dict[str, Any]:
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        "vae": random(
            AutoencoderKLFlux2,
            dtype,
            block_out_channels=(32,),
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            latent_channels=4,
        ),
        "text_encoder": None,
        "tokenizer": None,
        "transformer": random(Flux2Transformer2DModel, dtype, **TRANSFORMER, guidance_embeds=guidance_embeds),
    }


def to_grid(tokens: torch.Tensor) -> torch.Tensor:
    """Return tokens, [N, 16, C], as [N, C, 4, 4], which these pipelines pack themselves."""
    return tokens.unflatten(1, (4, 4)).movedim(-1, 1).contiguous()


@recipe("Flux2Pipeline")
def flux2(dtype: torch.dtype) -> Trial:
    pipe = Flux2Pipeline(**components(dtype, guidance_embeds=True))
    call = {"prompt_embeds": normal(BATCH, 5, 32, dtype=dtype), **SIZE}
    return Trial(pipe, SHAPE, call, {"guidance_scale": 4.0}, {"guidance_scale": 1.0}, call_latents=to_grid)


@recipe("Flux2KleinPipeline")
def flux2_klein(dtype: torch.dtype) -> Trial:
    pipe = Flux2KleinPipeline(**components(dtype, guidance_embeds=False))
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        **SIZE,
    }
    return Trial(pipe, SHAPE, call, {"guidance_scale": 4.0}, {"guidance_scale": 1.0}, call_latents=to_grid)


@recipe("Flux2KleinKVPipeline")
def flux2_klein_kv(dtype: torch.dtype) -> Trial:
    """Without reference images, and with no guidance, which the class does not have."""
    pipe = Flux2KleinKVPipeline(**components(dtype, guidance_embeds=False))
    call = {"prompt_embeds": normal(BATCH, 5, 32, dtype=dtype), **SIZE}
    return Trial(pipe, SHAPE, call, call_latents=to_grid)
