"""EasyAnimate: text to video."""

import torch
from diffusers import (
    AutoencoderKLMagvit,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)

from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 8,
    "text_embed_dim": 32,
    "num_layers": 1,
    "sample_width": 4,
    "sample_height": 4,
    "patch_size": 2,
}
VAE = {
    "down_block_types": ("SpatialDownBlock3D",) + ("SpatialTemporalDownBlock3D",) * 3,
    "up_block_types": ("SpatialUpBlock3D",) + ("SpatialTemporalUpBlock3D",) * 3,
    "block_out_channels": (8, 8, 8, 8),
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "spatial_group_norm": False,
}


@recipe("EasyAnimatePipeline")
def easyanimate(dtype: torch.dtype) -> Trial:
    pipe = EasyAnimatePipeline(
        vae=random(AutoencoderKLMagvit, dtype, **VAE),  # the loop reads its config
        text_encoder=None,
        tokenizer=None,
        transformer=random(EasyAnimateTransformer3DModel, dtype, **TRANSFORMER),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_attention_mask": torch.ones(BATCH, 5),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_attention_mask": torch.ones(BATCH, 5),
        "height": 32,
        "width": 32,
        "num_frames": 5,
    }
    guided = {"guidance_scale": 3.0, "guidance_rescale": 0.5}
    return Trial(pipe, (BATCH, 4, 2, 4, 4), call, guided, {"guidance_scale": 1.0})
