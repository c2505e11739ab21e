"""Stable Diffusion 1 and XL, with UNets of a few thousand weights."""

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
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def vae(dtype: torch.dtype) -> AutoencoderKL:
    return random(
        AutoencoderKL,
        dtype,
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )


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
    call = {
        "prompt_embeds": normal(BATCH, 7, 32, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 7, 32, dtype=dtype, seed=2),
    }
    return Trial(pipe, (BATCH, 4, 8, 8), call, {"guidance_scale": 3.0}, {"guidance_scale": 1.0}, denoiser="unet")


@recipe("StableDiffusionXLPipeline")
def stable_diffusion_xl(dtype: torch.dtype) -> Trial:
    unet = random(
        UNet2DConditionModel,
        dtype,
        **UNET,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    )
    pipe = StableDiffusionXLPipeline(
        vae=vae(dtype),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"),
    )
    call = {
        "prompt_embeds": normal(BATCH, 7, 32, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 7, 32, dtype=dtype, seed=2),
        "pooled_prompt_embeds": normal(BATCH, 32, dtype=dtype),
        "negative_pooled_prompt_embeds": normal(BATCH, 32, dtype=dtype, seed=3),
    }
    return Trial(pipe, (BATCH, 4, 8, 8), call, {"guidance_scale": 3.0}, {"guidance_scale": 1.0}, denoiser="unet")
