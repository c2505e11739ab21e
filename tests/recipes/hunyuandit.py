"""Hunyuan-DiT."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    HunyuanDiT2DControlNetModel,
    HunyuanDiT2DModel,
    HunyuanDiTControlNetPipeline,
    HunyuanDiTPAGPipeline,
    HunyuanDiTPipeline,
)

from tests.recipes.pag import with_pag
from tests.recipes.seeded import seeded
from tests.recipes.stable_diffusion import BETAS
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "sample_size": 8,
    "patch_size": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "in_channels": 4,
    "hidden_size": 16,
    "cross_attention_dim": 32,
    "cross_attention_dim_t5": 32,
    "pooled_projection_dim": 16,
    "text_len": 5,
    "text_len_t5": 6,
}


@recipe("HunyuanDiTPipeline")
def hunyuan_dit(dtype: torch.dtype) -> Trial:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    pipe = HunyuanDiTPipeline(
        vae=random(AutoencoderKL, dtype, **blocks, block_out_channels=(32,) * 4, latent_channels=4),
        text_encoder=None,
        tokenizer=None,
        transformer=random(HunyuanDiT2DModel, dtype, **TRANSFORMER, num_layers=4),
        scheduler=DDPMScheduler(**BETAS, clip_sample=False, steps_offset=1, prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=None,
        tokenizer_2=None,
    )
    call: dict[str, Any] = {"height": 64, "width": 64, "use_resolution_binning": False}
    for suffix, length in (("", 5), ("_2", 6)):
        mask = torch.ones(BATCH, length, dtype=torch.int64)
        mask[1, 3:] = 0
        for seed, prefix in enumerate(("", "negative_")):
            call[f"{prefix}prompt_embeds{suffix}"] = normal(BATCH, length, 32, dtype=dtype, seed=seed)
            call[f"{prefix}prompt_attention_mask{suffix}"] = mask
    return Trial(pipe, (BATCH, 4, 8, 8), call, {"guidance_scale": 3.0}, {"guidance_scale": 1.0})


@recipe("HunyuanDiTPAGPipeline")
def hunyuan_dit_pag(dtype: torch.dtype) -> Trial:
    return with_pag(hunyuan_dit(dtype), HunyuanDiTPAGPipeline, "blocks.1")


@recipe("HunyuanDiTControlNetPipeline")
def hunyuan_dit_controlnet(dtype: torch.dtype) -> Trial:
    trial = hunyuan_dit(dtype)
    controlnet = random(HunyuanDiT2DControlNetModel, dtype, **TRANSFORMER, transformer_num_layers=4)
    pipe = HunyuanDiTControlNetPipeline(**trial.pipe.components, controlnet=controlnet, requires_safety_checker=False)
    call = {**trial.call, "control_image": normal(BATCH, 3, 64, 64, dtype=dtype, seed=4)}
    return Trial(pipe, trial.shape, call, trial.guided, trial.unguided, call_latents=seeded)
