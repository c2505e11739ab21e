"""Z-Image with a ControlNet."""

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImageControlNetModel,
    ZImageControlNetPipeline,
    ZImageTransformer2DModel,
)

from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {"dim": 32, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}


@recipe("ZImageControlNetPipeline")
def z_image_controlnet(dtype: torch.dtype) -> Trial:
    transformer = random(
        ZImageTransformer2DModel,
        dtype,
        **TRANSFORMER,
        n_layers=1,
        in_channels=4,
        cap_feat_dim=32,
        axes_dims=[8, 4, 4],
        axes_lens=[64, 32, 32],
    )
    controlnet = random(
        ZImageControlNetModel,
        dtype,
        **TRANSFORMER,
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        control_in_dim=4,
    )
    pipe = ZImageControlNetPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=random(AutoencoderKL, dtype, block_out_channels=(32,), latent_channels=4, shift_factor=0.1),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
        controlnet=controlnet,
    )
    call = {
        "prompt_embeds": [normal(5, 32, dtype=dtype), normal(7, 32, dtype=dtype)],
        "negative_prompt_embeds": [normal(5, 32, dtype=dtype, seed=2), normal(3, 32, dtype=dtype, seed=2)],
        "control_image": normal(BATCH, 3, 8, 8, dtype=dtype, seed=4),
        "height": 8,
        "width": 8,
    }
    shape = (BATCH, 4, 8, 8)
    return Trial(pipe, shape, call, {"guidance_scale": 3.0}, {"guidance_scale": 0.0}, dtype=torch.float32)
