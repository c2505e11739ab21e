"""Chroma."""

import torch
from diffusers import AutoencoderKL, ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

from tests.recipes.trial import BATCH, Trial, normal, prompt_mask, random, recipe


@recipe("ChromaPipeline")
def chroma(dtype: torch.dtype) -> Trial:
    pipe = ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=random(AutoencoderKL, dtype, block_out_channels=(32,), latent_channels=4, shift_factor=0.1),
        text_encoder=None,
        tokenizer=None,
        transformer=random(
            ChromaTransformer2DModel,
            dtype,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=16,
            approximator_hidden_dim=32,
            approximator_layers=1,
        ),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_attention_mask": prompt_mask(torch.bool),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_attention_mask": prompt_mask(torch.bool),
        "height": 8,
        "width": 8,
    }
    return Trial(pipe, (BATCH, 16, 16), call, {"guidance_scale": 5.0}, {"guidance_scale": 1.0})
