"""Sana with a ControlNet, and with perturbed-attention guidance."""

from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    SanaControlNetModel,
    SanaControlNetPipeline,
    SanaPAGPipeline,
    SanaTransformer2DModel,
)

from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 8,
    "cross_attention_dim": 16,
    "caption_channels": 32,
    "sample_size": 8,
}


def components(dtype: torch.dtype) -> dict[str, Any]:
    blocks = ("ResBlock", "EfficientViTBlock")
    sides = {f"{side}_block_types": blocks for side in ("encoder", "decoder")}
    sides |= {f"{side}_block_out_channels": (8, 8) for side in ("encoder", "decoder")}
    sides |= {f"{side}_layers_per_block": (1, 1) for side in ("encoder", "decoder")}
    sides |= {f"{side}_qkv_multiscales": ((), (5,)) for side in ("encoder", "decoder")}
    vae = random(AutoencoderDC, dtype, **sides, latent_channels=4, attention_head_dim=8, downsample_block_type="conv")
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return {
        "tokenizer": None,
        "text_encoder": None,
        "vae": vae,
        "transformer": random(SanaTransformer2DModel, dtype, **TRANSFORMER, num_layers=2),
        "scheduler": DPMSolverMultistepScheduler(**flow),
    }


def prompts(dtype: torch.dtype) -> dict[str, Any]:
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    return {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_attention_mask": mask,
        "negative_prompt": None,
        "height": 32,
        "width": 32,
        "use_resolution_binning": False,
    }


@recipe("SanaControlNetPipeline")
def sana_controlnet(dtype: torch.dtype) -> Trial:
    controlnet = random(SanaControlNetModel, dtype, **TRANSFORMER, num_layers=1)  # for the second block
    pipe = SanaControlNetPipeline(**components(dtype), controlnet=controlnet)
    call = {**prompts(dtype), "control_image": normal(BATCH, 3, 32, 32, dtype=dtype, seed=4)}
    guided, unguided = {"guidance_scale": 4.5}, {"guidance_scale": 1.0}
    return Trial(pipe, (BATCH, 4, 16, 16), call, guided, unguided, dtype=torch.float32)


@recipe("SanaPAGPipeline")
def sana_pag(dtype: torch.dtype) -> Trial:
    pipe = SanaPAGPipeline(**components(dtype), pag_applied_layers="transformer_blocks.0")
    guided, unguided = {"guidance_scale": 4.5, "pag_scale": 2.0}, {"guidance_scale": 1.0, "pag_scale": 0.0}
    return Trial(pipe, (BATCH, 4, 16, 16), prompts(dtype), guided, unguided, dtype=torch.float32)
