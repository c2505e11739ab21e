"""Autoencoders of a few thousand weights that make latents of an eighth of the image's size."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLWan,
)

from tests.recipes.trial import random


def stable_diffusion(dtype: torch.dtype, **config: Any) -> Any:
    return random(
        AutoencoderKL,
        dtype,
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
        **config,
    )


def hunyuan_video(dtype: torch.dtype) -> Any:
    config = {"block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4}
    return random(AutoencoderKLHunyuanVideo, dtype, **config)


def wan(dtype: torch.dtype) -> Any:
    statistics = {"latents_mean": [0.1, -0.2, 0.3, 0.4], "latents_std": [2.0, 1.5, 1.0, 0.5]}
    return random(AutoencoderKLWan, dtype, base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **statistics)


def mochi(dtype: torch.dtype) -> Any:
    return random(
        AutoencoderKLMochi,
        dtype,
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
        add_attention_block=(False,) * 5,
    )


def ltx(dtype: torch.dtype) -> Any:
    """Return one that makes latents of a 32nd of the image's size, and takes a time, as published since 0.9.1."""
    vae = random(
        AutoencoderKLLTXVideo,
        dtype,
        latent_channels=8,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        timestep_conditioning=True,
    )
    vae.latents_mean += 0.1
    vae.latents_std *= 2
    return vae
