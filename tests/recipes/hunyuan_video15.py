"""HunyuanVideo 1.5: text to video. Its guidance is a component, not an argument of the call."""

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
)

from tests.recipes.trial import BATCH, Trial, normal, random, recipe

VAE = {
    "latent_channels": 4,
    "block_out_channels": (16, 16),
    "layers_per_block": 1,
    "spatial_compression_ratio": 4,
    "temporal_compression_ratio": 2,
    "downsample_match_channel": False,
    "upsample_match_channel": False,
}
TRANSFORMER = {
    "in_channels": 9,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 1,
    "num_refiner_layers": 1,
    "mlp_ratio": 2.0,
    "text_embed_dim": 16,
    "text_embed_2_dim": 32,
    "image_embed_dim": 12,
    "rope_axes_dim": (2, 2, 4),
}


@recipe("HunyuanVideo15Pipeline")
def guided(dtype: torch.dtype) -> Trial:
    return trial(dtype, guidance_scale=3.0)


@recipe("HunyuanVideo15Pipeline without guidance")
def unguided(dtype: torch.dtype) -> Trial:
    return trial(dtype, guidance_scale=1.0)


def trial(dtype: torch.dtype, guidance_scale: float) -> Trial:
    pipe = HunyuanVideo15Pipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=random(HunyuanVideo15Transformer3DModel, dtype, **TRANSFORMER),
        vae=random(AutoencoderKLHunyuanVideo15, dtype, **VAE),  # the call reads its config
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=None,
        tokenizer_2=None,
        guider=ClassifierFreeGuidance(guidance_scale=guidance_scale),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 16, dtype=dtype),
        "prompt_embeds_mask": torch.ones(BATCH, 5),
        "prompt_embeds_2": normal(BATCH, 3, 32, dtype=dtype),
        "prompt_embeds_mask_2": torch.ones(BATCH, 3),
        "negative_prompt_embeds": normal(BATCH, 5, 16, dtype=dtype, seed=2),
        "negative_prompt_embeds_mask": torch.ones(BATCH, 5),
        "negative_prompt_embeds_2": normal(BATCH, 3, 32, dtype=dtype, seed=3),
        "negative_prompt_embeds_mask_2": torch.ones(BATCH, 3),
        "height": 16,
        "width": 16,
        "num_frames": 3,
    }
    return Trial(pipe, (BATCH, 4, 2, 4, 4), call)
