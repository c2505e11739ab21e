"""Kolors: a UNet such as that of Stable Diffusion XL, with another text encoder."""

import torch
from diffusers import EulerDiscreteScheduler, KolorsPAGPipeline, KolorsPipeline, UNet2DConditionModel

from tests.recipes.pag import with_pag
from tests.recipes.stable_diffusion import BETAS, UNET, vae
from tests.recipes.trial import BATCH, Trial, normal, random, recipe


@recipe("KolorsPipeline")
def kolors(dtype: torch.dtype) -> Trial:
    unet = random(
        UNet2DConditionModel,
        dtype,
        **UNET,
        encoder_hid_dim=16,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    )
    pipe = KolorsPipeline(
        vae=vae(dtype),
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"),
    )
    call = {
        "prompt_embeds": normal(BATCH, 7, 16, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 7, 16, dtype=dtype, seed=2),
        "pooled_prompt_embeds": normal(BATCH, 32, dtype=dtype),
        "negative_pooled_prompt_embeds": normal(BATCH, 32, dtype=dtype, seed=3),
    }
    return Trial(pipe, (BATCH, 4, 8, 8), call, {"guidance_scale": 3.0}, {"guidance_scale": 1.0}, denoiser="unet")


@recipe("KolorsPAGPipeline")
def kolors_pag(dtype: torch.dtype) -> Trial:
    return with_pag(kolors(dtype), KolorsPAGPipeline, "mid")
