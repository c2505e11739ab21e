"""Motif-Video: text to video. Its guidance is a component, not an argument of the call."""

import torch
from diffusers import (
    AdaptiveProjectedGuidance,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    MotifVideoPipeline,
    MotifVideoTransformer3DModel,
)

from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "in_channels": 33,
    "out_channels": 16,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "num_layers": 1,
    "num_single_layers": 1,
    "patch_size": 1,
    "text_embed_dim": 32,
    "rope_axes_dim": (4, 4, 4),
}


@recipe("MotifVideoPipeline")
def guided(dtype: torch.dtype) -> Trial:
    return trial(dtype, guidance_scale=4.0)


@recipe("MotifVideoPipeline without guidance")
def unguided(dtype: torch.dtype) -> Trial:
    return trial(dtype, guidance_scale=1.0)


def trial(dtype: torch.dtype, guidance_scale: float) -> Trial:
    pipe = MotifVideoPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        vae=random(
            AutoencoderKLWan, dtype, base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1
        ),  # the call reads its config
        text_encoder=None,
        tokenizer=None,
        transformer=random(MotifVideoTransformer3DModel, dtype, **TRANSFORMER),
        guider=AdaptiveProjectedGuidance(guidance_scale=guidance_scale),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_attention_mask": torch.ones(BATCH, 5),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_attention_mask": torch.ones(BATCH, 5),
        "height": 32,
        "width": 32,
        "num_frames": 5,
    }
    return Trial(pipe, (BATCH, 16, 2, 4, 4), call)
