"""Latte: text to video."""

import torch
from diffusers import DDIMScheduler, LattePipeline, LatteTransformer3DModel

from tests.recipes import vaes
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "sample_size": 4,
    "num_layers": 1,
    "patch_size": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_channels": 32,
    "in_channels": 4,
    "out_channels": 8,  # the second half is a variance, which the pipeline drops
    "cross_attention_dim": 16,
    "num_embeds_ada_norm": 1000,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "video_length": 3,
}


@recipe("LattePipeline")
def latte(dtype: torch.dtype) -> Trial:
    pipe = LattePipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vaes.stable_diffusion(dtype),
        transformer=random(LatteTransformer3DModel, dtype, **TRANSFORMER),
        scheduler=DDIMScheduler(beta_schedule="linear", clip_sample=False),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt": None,
        "height": 32,
        "width": 32,
        "video_length": 3,
        "clean_caption": False,
    }
    return Trial(pipe, (BATCH, 4, 3, 4, 4), call, {"guidance_scale": 3.0}, {"guidance_scale": 1.0})
