"""Stable Diffusion 3 with a ControlNet, and with perturbed-attention guidance."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3PAGPipeline,
)

from tests.recipes.seeded import seeded
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 32,
    "pos_embed_max_size": 8,
}


def components(dtype: torch.dtype) -> dict[str, Any]:
    encoders = {f"{part}{i}": None for part in ("text_encoder", "tokenizer") for i in ("", "_2", "_3")}
    return {
        **encoders,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "vae": random(AutoencoderKL, dtype, block_out_channels=(32,), latent_channels=4, shift_factor=0.1),
        "transformer": random(SD3Transformer2DModel, dtype, **TRANSFORMER, num_layers=2),
    }


def prompts(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "pooled_prompt_embeds": normal(BATCH, 32, dtype=dtype),
        "negative_pooled_prompt_embeds": normal(BATCH, 32, dtype=dtype, seed=3),
    }


@recipe("StableDiffusion3ControlNetPipeline")
def stable_diffusion_3_controlnet(dtype: torch.dtype) -> Trial:
    controlnet = random(SD3ControlNetModel, dtype, **TRANSFORMER, num_layers=1)
    pipe = StableDiffusion3ControlNetPipeline(**components(dtype), controlnet=controlnet)
    call = {**prompts(dtype), "control_image": normal(BATCH, 3, 8, 8, dtype=dtype, seed=4)}
    guided, unguided = {"guidance_scale": 7.0}, {"guidance_scale": 1.0}
    return Trial(pipe, (BATCH, 4, 8, 8), call, guided, unguided, call_latents=seeded)


@recipe("StableDiffusion3PAGPipeline")
def stable_diffusion_3_pag(dtype: torch.dtype) -> Trial:
    pipe = StableDiffusion3PAGPipeline(**components(dtype), pag_applied_layers="blocks.0")
    guided, unguided = {"guidance_scale": 7.0, "pag_scale": 2.0}, {"guidance_scale": 1.0, "pag_scale": 0.0}
    return Trial(pipe, (BATCH, 4, 8, 8), prompts(dtype), guided, unguided)
