"""GLM-Image, with its first model's tokens given."""

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, GlmImagePipeline, GlmImageTransformer2DModel

from tests.recipes.trial import BATCH, Trial, normal, random, recipe


@recipe("GlmImagePipeline")
def glm_image(dtype: torch.dtype) -> Trial:
    pipe = GlmImagePipeline(
        tokenizer=None,
        processor=None,
        text_encoder=None,
        vision_language_encoder=None,
        vae=random(
            AutoencoderKL,
            dtype,
            block_out_channels=(32,),
            latent_channels=4,
            latents_mean=[0.1] * 4,
            latents_std=[2.0] * 4,
        ),
        transformer=random(
            GlmImageTransformer2DModel,
            dtype,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            text_embed_dim=32,
            time_embed_dim=16,
            condition_dim=8,
            prior_vq_quantizer_codebook_size=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"
        ),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "prior_token_ids": torch.arange(BATCH * 16).view(BATCH, 16) % 16,
        "height": 8,
        "width": 8,
    }
    return Trial(pipe, (BATCH, 4, 8, 8), call, {"guidance_scale": 1.5}, {"guidance_scale": 1.0})
