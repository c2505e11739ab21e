"""Perturbed-attention guidance with Stable Diffusion 1 and XL."""

from typing import Any

import torch
from diffusers import (
    StableDiffusionControlNetPAGPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionXLControlNetPAGPipeline,
    StableDiffusionXLPAGPipeline,
)

from tests.recipes.controlnet import stable_diffusion_controlnet, stable_diffusion_xl_controlnet
from tests.recipes.stable_diffusion import stable_diffusion, stable_diffusion_xl
from tests.recipes.trial import Trial, recipe


def with_pag(trial: Trial, kind: Any, *layers: str) -> Trial:
    """Return the trial with perturbed attention in some layers, and with both guidances or neither."""
    given = {"requires_safety_checker": False} if "safety_checker" in trial.pipe.components else {}
    pipe = kind(**trial.pipe.components, **given, pag_applied_layers=[*layers])
    guided = {**trial.guided, "pag_scale": 2.0}
    unguided = {**trial.unguided, "pag_scale": 0.0}
    return Trial(pipe, trial.shape, trial.call, guided, unguided, trial.dtype, trial.denoiser)


@recipe("StableDiffusionPAGPipeline")
def stable_diffusion_pag(dtype: torch.dtype) -> Trial:
    return with_pag(stable_diffusion(dtype), StableDiffusionPAGPipeline, "mid")


@recipe("StableDiffusionXLPAGPipeline")
def stable_diffusion_xl_pag(dtype: torch.dtype) -> Trial:
    return with_pag(stable_diffusion_xl(dtype), StableDiffusionXLPAGPipeline, "mid")


@recipe("StableDiffusionControlNetPAGPipeline")
def stable_diffusion_controlnet_pag(dtype: torch.dtype) -> Trial:
    return with_pag(stable_diffusion_controlnet(dtype), StableDiffusionControlNetPAGPipeline, "mid")


@recipe("StableDiffusionXLControlNetPAGPipeline")
def stable_diffusion_xl_controlnet_pag(dtype: torch.dtype) -> Trial:
    return with_pag(stable_diffusion_xl_controlnet(dtype), StableDiffusionXLControlNetPAGPipeline, "mid")
