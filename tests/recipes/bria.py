"""BRIA 3.2."""

import torch
from diffusers import AutoencoderKL, BriaPipeline, BriaTransformer2DModel, FlowMatchEulerDiscreteScheduler

from tests.recipes.trial import BATCH, Trial, normal, random, recipe


@recipe("BriaPipeline")
def bria(dtype: torch.dtype) -> Trial:
    """Without dynamic shifting, whose `mu` this class gives to FlowMatchEulerDiscreteScheduler only."""
    pipe = BriaPipeline(
        transformer=random(
            BriaTransformer2DModel,
            dtype,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=[4, 4, 8],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=random(AutoencoderKL, dtype, block_out_channels=(32,), latent_channels=4, shift_factor=0.1),
        text_encoder=None,
        tokenizer=None,
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "height": 8,
        "width": 8,
    }
    return Trial(pipe, (BATCH, 16, 16), call, {"guidance_scale": 5.0}, {"guidance_scale": 1.0})
