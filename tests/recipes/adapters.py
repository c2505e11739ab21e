"""Stable Diffusion with adapters, loaded by the pipeline's own methods."""

from inspect import signature
from typing import Any

import torch
from diffusers import (
    StableDiffusionAdapterPipeline,
    StableDiffusionXLAdapterPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)

from tests.recipes.stable_diffusion import stable_diffusion, stable_diffusion_xl
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TOKENS = 4


@recipe("StableDiffusionPipeline with an IP-Adapter")
def ip_adapter(dtype: torch.dtype) -> Trial:
    trial = stable_diffusion(dtype)
    unet = trial.pipe.unet
    projection = {"proj.weight": normal(TOKENS * 32, 16), "proj.bias": normal(TOKENS * 32)}
    norm = {"norm.weight": torch.ones(32), "norm.bias": torch.zeros(32)}
    attention = {}
    for i, name in enumerate(unet.attn_processors):
        if "attn2" in name:
            shape = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
            attention[f"{i}.to_k_ip.weight"] = normal(*shape, seed=i) / 4
            attention[f"{i}.to_v_ip.weight"] = normal(*shape, seed=-i) / 4
    trial.pipe.load_ip_adapter(
        {"image_proj": {**projection, **norm}, "ip_adapter": attention},
        subfolder="",
        weight_name="",
        image_encoder_folder=None,
    )
    embeds = normal(BATCH, 1, 16, dtype=dtype, seed=4)
    guided = {**trial.guided, "ip_adapter_image_embeds": [torch.cat([torch.zeros_like(embeds), embeds])]}
    unguided = {**trial.unguided, "ip_adapter_image_embeds": [embeds]}
    return Trial(trial.pipe, trial.shape, trial.call, guided, unguided, denoiser="unet")


def t2i_adapter(trial: Trial, kind: Any, dtype: torch.dtype, **given: Any) -> Trial:
    """Return the trial with a T2I-Adapter, whose features fit blocks that have attention first, as the checkpoints'."""
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    parts = {name: part for name, part in trial.pipe.components.items() if name in signature(kind).parameters}
    parts["unet"] = random(UNet2DConditionModel, dtype, **{**trial.pipe.unet.config, **blocks})
    parts["adapter"] = random(T2IAdapter, dtype, channels=[32, 64], num_res_blocks=1, downscale_factor=2)
    call = {**trial.call, "image": normal(BATCH, 3, 16, 16, dtype=dtype, seed=4)}
    return Trial(kind(**parts, **given), trial.shape, call, trial.guided, trial.unguided, denoiser="unet")


@recipe("StableDiffusionAdapterPipeline")
def stable_diffusion_adapter(dtype: torch.dtype) -> Trial:
    return t2i_adapter(stable_diffusion(dtype), StableDiffusionAdapterPipeline, dtype, requires_safety_checker=False)


@recipe("StableDiffusionXLAdapterPipeline")
def stable_diffusion_xl_adapter(dtype: torch.dtype) -> Trial:
    trial = t2i_adapter(stable_diffusion_xl(dtype), StableDiffusionXLAdapterPipeline, dtype)
    # The adapter acts in this factor times num_inference_steps network calls, and EDICT makes two per step.
    trial.call["adapter_conditioning_factor"] = 2.0
    return trial
