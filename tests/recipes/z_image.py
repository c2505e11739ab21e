"""Z-Image."""

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

from tests.recipes.trial import BATCH, Trial, normal, random, recipe


@recipe("ZImagePipeline")
def z_image(dtype: torch.dtype) -> Trial:
    pipe = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=random(AutoencoderKL, dtype, block_out_channels=(32,), latent_channels=4, shift_factor=0.1),
        text_encoder=None,
        tokenizer=None,
        transformer=random(
            ZImageTransformer2DModel,
            dtype,
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=32,
            axes_dims=[8, 4, 4],
        ),
    )
    call = {
        "prompt_embeds": [normal(5, 32, dtype=dtype), normal(7, 32, dtype=dtype)],
        "negative_prompt_embeds": [normal(5, 32, dtype=dtype, seed=2), normal(3, 32, dtype=dtype, seed=2)],
        "height": 8,
        "width": 8,
    }
    shape = (BATCH, 4, 8, 8)
    return Trial(pipe, shape, call, {"guidance_scale": 3.0}, {"guidance_scale": 0.0}, dtype=torch.float32)
