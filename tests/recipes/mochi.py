"""Mochi: text to video. Its sigmas rise from 0 at noise to 1."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel

from tests.recipes import vaes
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 2,  # the last layer drops the text
    "pooled_projection_dim": 16,
    "in_channels": 12,
    "text_embed_dim": 32,
    "time_embed_dim": 8,
}


@recipe("MochiPipeline")
def mochi(dtype: torch.dtype) -> Trial:
    pipe = MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=vaes.mochi(dtype),
        text_encoder=None,
        tokenizer=None,
        transformer=random(MochiTransformer3DModel, dtype, **TRANSFORMER),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_attention_mask": torch.ones(BATCH, 5, dtype=torch.bool),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_attention_mask": torch.ones(BATCH, 5, dtype=torch.bool),
        "height": 32,
        "width": 32,
        "num_frames": 7,
    }
    return Trial(pipe, (BATCH, 12, 2, 4, 4), call, {"guidance_scale": 3.0}, {"guidance_scale": 1.0})
