"""Kandinsky 2.2's decoder, and Kandinsky 3."""

import torch
from diffusers import (
    DDPMScheduler,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    KandinskyV22Pipeline,
    UNet2DConditionModel,
    VQModel,
)

from tests.recipes.stable_diffusion import BETAS
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

GUIDED, UNGUIDED = {"guidance_scale": 3.0}, {"guidance_scale": 1.0}


def movq(dtype: torch.dtype, levels: int) -> VQModel:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    return random(VQModel, dtype, **blocks, block_out_channels=(32,) * levels, latent_channels=4, num_vq_embeddings=8)


@recipe("KandinskyV22Pipeline")
def kandinsky_2_2(dtype: torch.dtype) -> Trial:
    unet = random(
        UNet2DConditionModel,
        dtype,
        in_channels=4,
        out_channels=8,  # the noise, and a variance that a step drops
        addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(32, 64),
        layers_per_block=1,
        encoder_hid_dim=16,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=16,
        attention_head_dim=8,
        resnet_time_scale_shift="scale_shift",
    )
    betas = {**BETAS, "beta_schedule": "linear"}
    pipe = KandinskyV22Pipeline(
        unet=unet,
        scheduler=DDPMScheduler(**betas, variance_type="learned_range", clip_sample=False),
        movq=movq(dtype, levels=2),
    )
    call = {
        "image_embeds": normal(BATCH, 16, dtype=dtype),
        "negative_image_embeds": normal(BATCH, 16, dtype=dtype, seed=2),
        "height": 16,
        "width": 16,
    }
    return Trial(pipe, (BATCH, 4, 8, 8), call, GUIDED, UNGUIDED, denoiser="unet")


@recipe("Kandinsky3Pipeline")
def kandinsky_3(dtype: torch.dtype) -> Trial:
    unet = random(
        Kandinsky3UNet,
        dtype,
        time_embedding_dim=32,
        groups=4,
        attention_head_dim=8,
        layers_per_block=2,
        block_out_channels=(16, 32),
        cross_attention_dim=16,
        encoder_hid_dim=32,
    )
    pipe = Kandinsky3Pipeline(
        tokenizer=None,
        text_encoder=None,
        unet=unet,
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False),
        movq=movq(dtype, levels=4),
    )
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "attention_mask": mask,
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_attention_mask": mask,
        "height": 64,
        "width": 64,
    }
    return Trial(pipe, (BATCH, 4, 8, 8), call, GUIDED, UNGUIDED, denoiser="unet")
