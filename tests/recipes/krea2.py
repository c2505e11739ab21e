"""Krea 2."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Krea2Pipeline, Krea2Transformer2DModel

from tests.recipes.qwen_image import vae
from tests.recipes.trial import BATCH, Trial, normal, prompt_mask, random, recipe


@recipe("Krea2Pipeline")
def krea2(dtype: torch.dtype) -> Trial:
    pipe = Krea2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(dtype),
        text_encoder=None,
        tokenizer=None,
        transformer=random(
            Krea2Transformer2DModel,
            dtype,
            in_channels=16,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=32,
            timestep_embed_dim=16,
            text_hidden_dim=32,
            num_text_layers=2,
            text_num_attention_heads=2,
            text_num_key_value_heads=1,
            text_intermediate_size=32,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(8, 4, 4),
        ),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 2, 32, dtype=dtype),
        "prompt_embeds_mask": prompt_mask(torch.bool),
        "negative_prompt_embeds": normal(BATCH, 5, 2, 32, dtype=dtype, seed=2),
        "negative_prompt_embeds_mask": prompt_mask(torch.bool),
        "height": 16,
        "width": 16,
    }
    return Trial(pipe, (BATCH, 16, 16), call, {"guidance_scale": 4.5}, {"guidance_scale": 0.0})
