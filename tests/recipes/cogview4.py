"""CogView4."""

import torch
from diffusers import AutoencoderKL, CogView4Pipeline, CogView4Transformer2DModel, FlowMatchEulerDiscreteScheduler

from tests.recipes.trial import BATCH, Trial, normal, random, recipe


@recipe("CogView4Pipeline")
def cogview4(dtype: torch.dtype) -> Trial:
    pipe = CogView4Pipeline(
        tokenizer=None,
        text_encoder=None,
        vae=random(AutoencoderKL, dtype, block_out_channels=(32,), latent_channels=4),
        transformer=random(
            CogView4Transformer2DModel,
            dtype,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            text_embed_dim=32,
            time_embed_dim=16,
            condition_dim=8,
            sample_size=8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"
        ),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "height": 16,
        "width": 16,
    }
    shape = (BATCH, 4, 16, 16)
    return Trial(pipe, shape, call, {"guidance_scale": 5.0}, {"guidance_scale": 1.0}, dtype=torch.float32)
