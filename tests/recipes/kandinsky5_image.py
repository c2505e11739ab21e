"""Kandinsky 5."""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    Kandinsky5T2IPipeline,
    Kandinsky5Transformer3DModel,
)

from tests.recipes import vaes
from tests.recipes.trial import BATCH, Trial, normal, random, recipe


@recipe("Kandinsky5T2IPipeline")
def kandinsky5(dtype: torch.dtype) -> Trial:
    pipe = Kandinsky5T2IPipeline(
        transformer=random(
            Kandinsky5Transformer3DModel,
            dtype,
            in_visual_dim=4,
            out_visual_dim=4,
            in_text_dim=32,
            in_text_dim2=16,
            time_dim=16,
            model_dim=32,
            ff_dim=32,
            num_text_blocks=1,
            num_visual_blocks=1,
            axes_dims=(4, 2, 2),
        ),
        vae=vaes.stable_diffusion(dtype),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipe.resolutions = [(64, 64)]  # every size is replaced by the nearest of these
    lengths = torch.tensor([0, 5, 10])
    call = {
        "prompt_embeds_qwen": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_embeds_clip": normal(BATCH, 16, dtype=dtype),
        "prompt_cu_seqlens": lengths,
        "negative_prompt_embeds_qwen": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_embeds_clip": normal(BATCH, 16, dtype=dtype, seed=3),
        "negative_prompt_cu_seqlens": lengths,
        "height": 64,
        "width": 64,
    }
    return Trial(pipe, (BATCH, 1, 8, 8, 4), call, {"guidance_scale": 3.5}, {"guidance_scale": 1.0})
