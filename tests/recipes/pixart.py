"""PixArt-α and PixArt-Σ."""

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPAGPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)

from tests.recipes.pag import with_pag
from tests.recipes.stable_diffusion import vae
from tests.recipes.trial import BATCH, Trial, normal, random, recipe


@recipe("PixArtAlphaPipeline")
def pixart_alpha(dtype: torch.dtype) -> Trial:
    transformer = random(
        PixArtTransformer2DModel,
        dtype,
        sample_size=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,  # the noise, and a variance that the pipeline drops
        cross_attention_dim=16,
        caption_channels=32,
    )
    pipe = PixArtAlphaPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae(dtype),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02),
    )
    call = {
        "negative_prompt": None,
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_attention_mask": torch.tensor([[1, 0, 0, 0, 0]] * BATCH),
        "use_resolution_binning": False,
    }
    return Trial(pipe, (BATCH, 4, 8, 8), call, {"guidance_scale": 3.0}, {"guidance_scale": 1.0})


@recipe("PixArtSigmaPipeline")
def pixart_sigma(dtype: torch.dtype) -> Trial:
    trial = pixart_alpha(dtype)
    return Trial(PixArtSigmaPipeline(**trial.pipe.components), trial.shape, trial.call, trial.guided, trial.unguided)


@recipe("PixArtSigmaPAGPipeline")
def pixart_sigma_pag(dtype: torch.dtype) -> Trial:
    return with_pag(pixart_sigma(dtype), PixArtSigmaPAGPipeline, "blocks.1")
