"""Kandinsky 6: text to video, without its audio. The pipeline puts the channels of its latents last."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Kandinsky6TI2VAPipeline, Kandinsky6Transformer3DModel

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
    "in_audio_dim": 4,
    "out_audio_dim": 4,
}


@recipe("Kandinsky6TI2VAPipeline")
def kandinsky6(dtype: torch.dtype) -> Trial:
    pipe = Kandinsky6TI2VAPipeline(
        transformer=random(Kandinsky6Transformer3DModel, dtype, **TRANSFORMER),
        vae=vaes.hunyuan_video(dtype),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "pooled_prompt_embeds": normal(BATCH, 16, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_pooled_prompt_embeds": normal(BATCH, 16, dtype=dtype, seed=3),
        "height": 32,
        "width": 32,
        "num_frames": 5,
        "sample_audio": False,
    }
    guided, unguided = {"guidance_scale": 3.0}, {"guidance_scale": 1.0}

    def given(latents: torch.Tensor) -> torch.Tensor:
        return latents.permute(0, 4, 1, 2, 3)

    return Trial(pipe, (BATCH, 2, 4, 4, 4), call, guided, unguided, call_latents=given)
