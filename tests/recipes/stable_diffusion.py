"""Stable Diffusion 1 and XL, with UNets of a few thousand weights."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from tests.recipes.trial import BATCH, Trial, normal, random, recipe

UNET = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
}
SIZE_CONDITIONS = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80,
}
"""The UNet's conditions on the size of the image, as in Stable Diffusion XL."""
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


GUIDED, UNGUIDED = {"guidance_scale": 3.0}, {"guidance_scale": 1.0}


def vae(dtype: torch.dtype) -> AutoencoderKL:
    """Return an autoencoder that makes latents of half of the image's size."""
    return random(
        AutoencoderKL,
        dtype,
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )


def euler() -> EulerDiscreteScheduler:
    """Return the scheduler of Stable Diffusion XL."""
    return EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")


def prompt_embeddings(width: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return embeddings of prompts and negative prompts, [N, 7, width], as arguments of a call."""
    return {
        "prompt_embeds": normal(BATCH, 7, width, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 7, width, dtype=dtype, seed=2),
    }


def pooled_embeddings(dtype: torch.dtype) -> dict[str, Any]:
    """Return pooled embeddings of prompts and negative prompts, [N, 32], as arguments of a call."""
    return {
        "pooled_prompt_embeds": normal(BATCH, 32, dtype=dtype),
        "negative_pooled_prompt_embeds": normal(BATCH, 32, dtype=dtype, seed=3),
    }


@recipe("StableDiffusionPipeline")
def stable_diffusion(dtype: torch.dtype) -> Trial:
    pipe = StableDiffusionPipeline(
        vae=vae(dtype),
        text_encoder=None,
        tokenizer=None,
        unet=random(UNet2DConditionModel, dtype, **UNET),
        scheduler=DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return Trial(pipe, (BATCH, 4, 8, 8), prompt_embeddings(32, dtype), GUIDED, UNGUIDED, denoiser="unet")


@recipe("StableDiffusionXLPipeline")
def stable_diffusion_xl(dtype: torch.dtype) -> Trial:
    unet = random(
        UNet2DConditionModel,
        dtype,
        **UNET,
        **SIZE_CONDITIONS,
    )
    pipe = StableDiffusionXLPipeline(
        vae=vae(dtype),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=euler(),
    )
    call = prompt_embeddings(32, dtype) | pooled_embeddings(dtype)
    return Trial(pipe, (BATCH, 4, 8, 8), call, GUIDED, UNGUIDED, denoiser="unet")
