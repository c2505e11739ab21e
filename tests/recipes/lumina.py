"""Lumina-Next and Lumina 2."""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    LuminaPipeline,
)

from tests.recipes import vaes
from tests.recipes.trial import BATCH, Trial, normal, prompt_mask, random, recipe

SHAPE = (BATCH, 4, 8, 8)
SIZE = {"height": 64, "width": 64}


@recipe("LuminaPipeline")
def lumina(dtype: torch.dtype) -> Trial:
    pipe = LuminaPipeline(
        transformer=random(
            LuminaNextDiT2DModel,
            dtype,
            sample_size=8,
            in_channels=4,
            hidden_size=32,
            num_layers=1,
            num_attention_heads=2,
            num_kv_heads=2,
            multiple_of=16,
            cross_attention_dim=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vaes.stable_diffusion(dtype),
        text_encoder=None,
        tokenizer=None,
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_attention_mask": prompt_mask(),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_attention_mask": prompt_mask(),
        **SIZE,
    }
    return Trial(pipe, SHAPE, call, {"guidance_scale": 4.0}, {"guidance_scale": 1.0})


@recipe("Lumina2Pipeline")
def lumina2(dtype: torch.dtype) -> Trial:
    pipe = Lumina2Pipeline(
        transformer=random(
            Lumina2Transformer2DModel,
            dtype,
            sample_size=8,
            in_channels=4,
            hidden_size=32,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=2,
            multiple_of=16,
            axes_dim_rope=(8, 4, 4),
            axes_lens=(16, 8, 8),
            cap_feat_dim=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vaes.stable_diffusion(dtype, shift_factor=0.1),
        text_encoder=None,
        tokenizer=None,
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_attention_mask": prompt_mask(torch.bool),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_attention_mask": prompt_mask(torch.bool),
        **SIZE,
    }
    return Trial(pipe, SHAPE, call, {"guidance_scale": 4.0}, {"guidance_scale": 1.0})
