"""Stable Diffusion 3."""

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

from tests.recipes.trial import BATCH, Trial, normal, random, recipe


@recipe("StableDiffusion3Pipeline")
def stable_diffusion_3(dtype: torch.dtype) -> Trial:
    pipe = StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=random(AutoencoderKL, dtype, block_out_channels=(32,), latent_channels=4, shift_factor=0.1),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
        transformer=random(
            SD3Transformer2DModel,
            dtype,
            sample_size=8,
            in_channels=4,
            num_layers=2,  # the last block has no text stream
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=32,
            out_channels=4,
            pos_embed_max_size=8,
        ),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "pooled_prompt_embeds": normal(BATCH, 32, dtype=dtype),
        "negative_pooled_prompt_embeds": normal(BATCH, 32, dtype=dtype, seed=3),
    }
    return Trial(pipe, (BATCH, 4, 8, 8), call, {"guidance_scale": 7.0}, {"guidance_scale": 1.0})
