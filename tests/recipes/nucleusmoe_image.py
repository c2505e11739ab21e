"""Nucleus-Image, a mixture of experts."""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    NucleusMoEImagePipeline,
    NucleusMoEImageTransformer2DModel,
)

from tests.recipes.qwen_image import vae
from tests.recipes.trial import BATCH, Trial, normal, prompt_mask, random, recipe


@recipe("NucleusMoEImagePipeline")
def nucleusmoe_image(dtype: torch.dtype) -> Trial:
    pipe = NucleusMoEImagePipeline(
        transformer=random(
            NucleusMoEImageTransformer2DModel,
            dtype,
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(8, 4, 4),
            dense_moe_strategy="all_moe",
            num_experts=4,
            moe_intermediate_dim=16,
            capacity_factors=2.0,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(dtype),
        text_encoder=None,
        processor=None,
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_embeds_mask": prompt_mask(),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_embeds_mask": prompt_mask(),
        "height": 16,
        "width": 16,
    }
    return Trial(pipe, (BATCH, 16, 16), call, {"guidance_scale": 4.0}, {"guidance_scale": 1.0})
