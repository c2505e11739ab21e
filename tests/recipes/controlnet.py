"""ControlNets of Stable Diffusion 1 and XL."""

from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLControlNetUnionPipeline,
)

from tests.recipes.stable_diffusion import UNET, stable_diffusion, stable_diffusion_xl
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

CONTROLNET = {name: value for name, value in UNET.items() if name not in ("sample_size", "up_block_types")}
EMBEDDING = {"conditioning_embedding_out_channels": (16, 32)}  # half the size, as the VAE's latents
TEXT_TIME = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80,
}


def with_controlnet(trial: Trial, kind: Any, controlnet: torch.nn.Module, **added: Any) -> Trial:
    """Return the trial of a Stable Diffusion with a ControlNet. `added` are arguments of its call."""
    parts = {**trial.pipe.components, "controlnet": controlnet}
    given = {} if "safety_checker" not in parts else {"requires_safety_checker": False}
    return Trial(
        kind(**parts, **given),
        trial.shape,
        {**trial.call, **added},
        trial.guided,
        trial.unguided,
        denoiser="unet",
    )


def image(dtype: torch.dtype) -> torch.Tensor:
    return normal(BATCH, 3, 16, 16, dtype=dtype, seed=4)


@recipe("StableDiffusionControlNetPipeline")
def stable_diffusion_controlnet(dtype: torch.dtype) -> Trial:
    controlnet = random(ControlNetModel, dtype, **CONTROLNET, **EMBEDDING)
    return with_controlnet(stable_diffusion(dtype), StableDiffusionControlNetPipeline, controlnet, image=image(dtype))


@recipe("StableDiffusionXLControlNetPipeline")
def stable_diffusion_xl_controlnet(dtype: torch.dtype) -> Trial:
    controlnet = random(ControlNetModel, dtype, **CONTROLNET, **EMBEDDING, **TEXT_TIME)
    return with_controlnet(
        stable_diffusion_xl(dtype), StableDiffusionXLControlNetPipeline, controlnet, image=image(dtype)
    )


@recipe("StableDiffusionXLControlNetUnionPipeline")
def stable_diffusion_xl_controlnet_union(dtype: torch.dtype) -> Trial:
    controlnet = random(
        ControlNetUnionModel,
        dtype,
        **CONTROLNET,
        **EMBEDDING,
        **TEXT_TIME,
        transformer_layers_per_block=1,
        num_control_type=2,
        num_trans_channel=32,
        num_trans_head=2,
        num_proj_channel=32,
    )
    return with_controlnet(
        stable_diffusion_xl(dtype),
        StableDiffusionXLControlNetUnionPipeline,
        controlnet,
        control_image=[image(dtype)],
        control_mode=[1],
    )
