"""ERNIE-Image."""

import torch
from diffusers import (
    AutoencoderKLFlux2,
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)

from tests.recipes.trial import BATCH, Trial, normal, random, recipe


@recipe("ErnieImagePipeline")
def ernie_image(dtype: torch.dtype) -> Trial:
    pipe = ErnieImagePipeline(
        transformer=random(
            ErnieImageTransformer2DModel,
            dtype,
            hidden_size=32,
            num_attention_heads=2,
            num_layers=1,
            ffn_hidden_size=32,
            in_channels=16,
            out_channels=16,
            text_in_dim=32,
            rope_axes_dim=(8, 4, 4),
        ),
        vae=random(
            AutoencoderKLFlux2,
            dtype,
            block_out_channels=(32,),
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            latent_channels=4,
        ),
        text_encoder=None,
        tokenizer=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    call = {
        "prompt_embeds": [normal(5, 32, dtype=dtype), normal(7, 32, dtype=dtype)],
        "negative_prompt_embeds": [normal(5, 32, dtype=dtype, seed=2), normal(3, 32, dtype=dtype, seed=2)],
        "height": 8,
        "width": 8,
    }
    return Trial(pipe, (BATCH, 16, 4, 4), call, {"guidance_scale": 4.0}, {"guidance_scale": 1.0})
