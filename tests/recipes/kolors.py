"""Kolors: a UNet such as that of Stable Diffusion XL, with another text encoder."""

import torch
from diffusers import KolorsPAGPipeline, KolorsPipeline, UNet2DConditionModel

from tests.recipes.pag import with_pag
from tests.recipes.stable_diffusion import (
    GUIDED,
    SIZE_CONDITIONS,
    UNET,
    UNGUIDED,
    euler,
    pooled_embeddings,
    prompt_embeddings,
    vae,
)
from tests.recipes.trial import BATCH, Trial, random, recipe


@recipe("KolorsPipeline")
def kolors(dtype: torch.dtype) -> Trial:
    projection = {"encoder_hid_dim": 16, "encoder_hid_dim_type": "text_proj"}
    pipe = KolorsPipeline(
        vae=vae(dtype),
        text_encoder=None,
        tokenizer=None,
        unet=random(UNet2DConditionModel, dtype, **UNET, **SIZE_CONDITIONS, **projection),
        scheduler=euler(),
    )
    call = prompt_embeddings(16, dtype) | pooled_embeddings(dtype)
    return Trial(pipe, (BATCH, 4, 8, 8), call, GUIDED, UNGUIDED, denoiser="unet")


@recipe("KolorsPAGPipeline")
def kolors_pag(dtype: torch.dtype) -> Trial:
    return with_pag(kolors(dtype), KolorsPAGPipeline, "mid")
