"""LTX-Video: text to video."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel

from tests.recipes import vaes
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "in_channels": 8,
    "out_channels": 8,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 16,
    "num_layers": 1,
    "caption_channels": 32,
}


@recipe("LTXPipeline")
def ltx(dtype: torch.dtype) -> Trial:
    pipe = LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1),
        vae=vaes.ltx(dtype),
        text_encoder=None,
        tokenizer=None,
        transformer=random(LTXVideoTransformer3DModel, dtype, **TRANSFORMER),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_attention_mask": torch.ones(BATCH, 5),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_attention_mask": torch.ones(BATCH, 5),
        "height": 64,
        "width": 64,
        "num_frames": 9,
    }
    guided = {"guidance_scale": 3.0, "guidance_rescale": 0.5}
    return Trial(pipe, (BATCH, 8, 8), call, guided, {"guidance_scale": 1.0}, dtype=torch.float32)
