"""HiDream-I1."""

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
)

from tests.recipes.trial import BATCH, Trial, normal, random, recipe


@recipe("HiDreamImagePipeline")
def hidream_image(dtype: torch.dtype) -> Trial:
    pipe = HiDreamImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=random(AutoencoderKL, dtype, block_out_channels=(32,), latent_channels=4, shift_factor=0.1),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
        text_encoder_4=None,
        tokenizer_4=None,
        transformer=random(
            HiDreamImageTransformer2DModel,
            dtype,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_channels=[32, 16],
            text_emb_dim=32,
            axes_dims_rope=(4, 2, 2),
            max_resolution=(8, 8),
            llama_layers=(0, 1),
        ),
    )
    pipe.default_sample_size = 8  # every size is scaled to the area of this one
    call = {
        "prompt_embeds_t5": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_embeds_llama3": normal(2, BATCH, 5, 16, dtype=dtype),
        "pooled_prompt_embeds": normal(BATCH, 32, dtype=dtype),
        "negative_prompt_embeds_t5": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_embeds_llama3": normal(2, BATCH, 5, 16, dtype=dtype, seed=3),
        "negative_pooled_prompt_embeds": normal(BATCH, 32, dtype=dtype, seed=4),
    }
    return Trial(pipe, (BATCH, 4, 8, 8), call, {"guidance_scale": 5.0}, {"guidance_scale": 1.0})
