"""Kandinsky 5: text to video. Its latents have the channels last."""

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Kandinsky5T2VPipeline, Kandinsky5Transformer3DModel

from tests.recipes import vaes
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "in_visual_dim": 4,
    "out_visual_dim": 4,
    "in_text_dim": 32,
    "in_text_dim2": 16,
    "time_dim": 16,
    "model_dim": 16,
    "ff_dim": 32,
    "num_text_blocks": 1,
    "num_visual_blocks": 1,
    "axes_dims": (2, 2, 4),
}


def pipeline(dtype: torch.dtype, **config: Any) -> Kandinsky5T2VPipeline:
    return Kandinsky5T2VPipeline(
        transformer=random(Kandinsky5Transformer3DModel, dtype, **TRANSFORMER, **config),
        vae=vaes.hunyuan_video(dtype),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )


def trial(pipe: Kandinsky5T2VPipeline, dtype: torch.dtype, **given: Any) -> Trial:
    call = {
        "prompt_embeds_qwen": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_embeds_clip": normal(BATCH, 16, dtype=dtype),
        "prompt_cu_seqlens": torch.arange(BATCH + 1, dtype=torch.int32) * 5,
        "negative_prompt_embeds_qwen": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_embeds_clip": normal(BATCH, 16, dtype=dtype, seed=3),
        "negative_prompt_cu_seqlens": torch.arange(BATCH + 1, dtype=torch.int32) * 5,
        "height": 32,
        "width": 32,
        "num_frames": 5,
    }
    return Trial(pipe, (BATCH, 2, 4, 4, 4), call, {"guidance_scale": 3.0}, {"guidance_scale": 1.0}, **given)


@recipe("Kandinsky5T2VPipeline")
def kandinsky5(dtype: torch.dtype) -> Trial:
    return trial(pipeline(dtype), dtype)


@recipe("Kandinsky5T2VPipeline with visual conditions")
def kandinsky5_with_visual_conditions(dtype: torch.dtype) -> Trial:
    """The published models take channels for the first frame, and the latents that the call is given have them."""

    def given(latents: torch.Tensor) -> torch.Tensor:
        return torch.cat([latents, torch.zeros_like(latents), torch.zeros_like(latents[..., :1])], dim=-1)

    return trial(pipeline(dtype, visual_cond=True), dtype, call_latents=given)
