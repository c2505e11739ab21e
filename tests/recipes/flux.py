"""FLUX.1."""

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "axes_dims_rope": (4, 4, 8),
}


@recipe("FluxPipeline")
def flux(dtype: torch.dtype) -> Trial:
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=random(AutoencoderKL, dtype, block_out_channels=(32,), latent_channels=4, shift_factor=0.1),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=random(FluxTransformer2DModel, dtype, **TRANSFORMER, guidance_embeds=True),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "pooled_prompt_embeds": normal(BATCH, 32, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_pooled_prompt_embeds": normal(BATCH, 32, dtype=dtype, seed=3),
        "height": 8 * pipe.vae_scale_factor,
        "width": 8 * pipe.vae_scale_factor,
    }
    guided = {"guidance_scale": 3.5, "true_cfg_scale": 2.0}
    return Trial(pipe, (BATCH, 16, 16), call, guided, {"guidance_scale": 1.0, "true_cfg_scale": 1.0})
