"""Allegro: text to video."""

import torch
from diffusers import AllegroPipeline, AllegroTransformer3DModel, EulerAncestralDiscreteScheduler

from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 1,
    "cross_attention_dim": 24,
    "sample_width": 4,
    "sample_height": 4,
    "sample_frames": 2,
    "caption_channels": 32,
}


@recipe("AllegroPipeline")
def allegro(dtype: torch.dtype) -> Trial:
    pipe = AllegroPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=random(AllegroTransformer3DModel, dtype, **TRANSFORMER),
        scheduler=EulerAncestralDiscreteScheduler(beta_schedule="scaled_linear"),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_attention_mask": torch.ones(BATCH, 5),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_attention_mask": torch.ones(BATCH, 5),
        "negative_prompt": None,
        "height": 32,
        "width": 32,
        "num_frames": 8,
        "clean_caption": False,
    }
    return Trial(pipe, (BATCH, 4, 2, 4, 4), call, {"guidance_scale": 3.0}, {"guidance_scale": 1.0})
