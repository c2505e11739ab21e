"""Wan VACE: video to video with control, by one transformer or by two. The pipeline takes one video per call."""

from typing import Any

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanVACEPipeline, WanVACETransformer3DModel

from tests.recipes.trial import Trial, normal, random, recipe

TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 32,
    "num_layers": 1,
    "rope_max_seq_len": 32,
    "vace_layers": [0],
    "vace_in_channels": 96,
}


@recipe("WanVACEPipeline")
def wan_vace(dtype: torch.dtype) -> Trial:
    return trial(dtype, {}, {})


@recipe("WanVACEPipeline with two transformers")
def wan_vace_with_two_transformers(dtype: torch.dtype) -> Trial:
    second = random(WanVACETransformer3DModel, dtype, **TRANSFORMER)
    made = {"transformer_2": second, "boundary_ratio": 0.8}
    return trial(dtype, made, {"guidance_scale_2": 2.0}, denoiser=("transformer", "transformer_2"))


def trial(dtype: torch.dtype, made: dict[str, Any], guided: dict[str, Any], **given: Any) -> Trial:
    pipe = WanVACEPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=random(AutoencoderKLWan, torch.float32, base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=random(WanVACETransformer3DModel, dtype, **TRANSFORMER),
        **made,
    )
    call = {
        "prompt_embeds": normal(1, 5, 32, dtype=dtype),
        "negative_prompt_embeds": normal(1, 5, 32, dtype=dtype, seed=2),
        "height": 16,
        "width": 16,
        "num_frames": 5,
    }
    guided, unguided = {"guidance_scale": 3.0, **guided}, {"guidance_scale": 1.0}
    return Trial(pipe, (1, 16, 2, 2, 2), call, guided, unguided, dtype=torch.float32, **given)
