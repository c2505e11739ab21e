"""AnimateDiff: Stable Diffusion with a motion adapter."""

from typing import Any

import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    AnimateDiffPAGPipeline,
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AnimateDiffSparseControlNetPipeline,
    ControlNetModel,
    DDIMScheduler,
    MotionAdapter,
    SparseControlNetModel,
    UNet2DConditionModel,
)
from PIL import Image

from tests.recipes import vaes
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

FRAMES = 2
CHANNELS = (8,)
UNET = {
    "sample_size": 4,
    "block_out_channels": CHANNELS,
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 2,
}
ADAPTER = {
    "block_out_channels": CHANNELS,
    "motion_layers_per_block": 1,
    "motion_num_attention_heads": 2,
    "motion_norm_num_groups": 2,
    "use_motion_mid_block": False,
}
CONTROL = {
    "block_out_channels": CHANNELS,
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 2,
    "conditioning_embedding_out_channels": (8, 8, 8, 8),
}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"}


def parts(dtype: torch.dtype, **unet: Any) -> dict[str, Any]:
    return {
        "vae": vaes.stable_diffusion(dtype),
        "text_encoder": None,
        "tokenizer": None,
        "unet": random(UNet2DConditionModel, dtype, **UNET, **unet),
        "motion_adapter": random(MotionAdapter, dtype, **ADAPTER),
        "scheduler": DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing="leading", steps_offset=1),
    }


def trial(pipe: Any, dtype: torch.dtype, guided: dict[str, Any], call: dict[str, Any], batch: int = BATCH) -> Trial:
    call = {
        "prompt_embeds": normal(batch, 7, 8, dtype=dtype),
        "negative_prompt_embeds": normal(batch, 7, 8, dtype=dtype, seed=2),
        "num_frames": FRAMES,
        **call,
    }
    shape, guided = (batch, 4, FRAMES, 4, 4), {"guidance_scale": 3.0, **guided}
    return Trial(pipe, shape, call, guided, {"guidance_scale": 1.0}, denoiser="unet")


@recipe("AnimateDiffPipeline")
def animatediff(dtype: torch.dtype) -> Trial:
    return trial(AnimateDiffPipeline(**parts(dtype)), dtype, {}, {})


@recipe("AnimateDiffPAGPipeline")
def animatediff_pag(dtype: torch.dtype) -> Trial:
    pipe = AnimateDiffPAGPipeline(**parts(dtype), pag_applied_layers="mid_block.*attn1")
    return trial(pipe, dtype, {"pag_scale": 2.0, "pag_adaptive_scale": 0.001}, {})


@recipe("AnimateDiffSDXLPipeline")
def animatediff_sdxl(dtype: torch.dtype) -> Trial:
    made = parts(
        dtype,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=56,
    )
    pipe = AnimateDiffSDXLPipeline(**made, text_encoder_2=None, tokenizer_2=None)
    call = {
        "pooled_prompt_embeds": normal(BATCH, 8, dtype=dtype),
        "negative_pooled_prompt_embeds": normal(BATCH, 8, dtype=dtype, seed=3),
    }
    return trial(pipe, dtype, {"guidance_rescale": 0.5}, call)


@recipe("AnimateDiffControlNetPipeline")
def animatediff_control(dtype: torch.dtype) -> Trial:
    control = random(ControlNetModel, dtype, **CONTROL, down_block_types=UNET["down_block_types"])
    pipe = AnimateDiffControlNetPipeline(**parts(dtype), controlnet=control)
    return trial(pipe, dtype, {}, {"conditioning_frames": frames(pipe)}, batch=1)  # it takes the frames of one video


@recipe("AnimateDiffSparseControlNetPipeline")
def animatediff_sparse_control(dtype: torch.dtype) -> Trial:
    kinds = ("CrossAttnDownBlockMotion",)
    given = {"down_block_types": kinds, "conditioning_channels": 3, "use_simplified_condition_embedding": False}
    control = random(SparseControlNetModel, dtype, **CONTROL, **given)
    pipe = AnimateDiffSparseControlNetPipeline(**parts(dtype), controlnet=control)
    return trial(pipe, dtype, {}, {"conditioning_frames": frames(pipe), "controlnet_frame_indices": [0, 1]})


def frames(pipe: Any) -> list[Image.Image]:
    pixels = normal(FRAMES, 4, 4, 3).sigmoid().mul(255).byte().numpy()
    return [Image.fromarray(frame).resize((4 * pipe.vae_scale_factor,) * 2) for frame in pixels]
