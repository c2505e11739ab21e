"""FLUX.1 with a control image: by a ControlNet, and in the transformer's own channels."""

import torch
from diffusers import FluxControlNetModel, FluxControlNetPipeline, FluxControlPipeline, FluxTransformer2DModel

from tests.recipes.flux import TRANSFORMER, flux
from tests.recipes.seeded import seeded
from tests.recipes.trial import BATCH, Trial, normal, random, recipe


@recipe("FluxControlNetPipeline")
def flux_controlnet(dtype: torch.dtype) -> Trial:
    trial = flux(dtype)
    controlnet = random(FluxControlNetModel, dtype, **TRANSFORMER, guidance_embeds=True)
    pipe = FluxControlNetPipeline(**trial.pipe.components, controlnet=controlnet)
    call = {**trial.call, "control_image": normal(BATCH, 3, 8, 8, dtype=dtype, seed=4)}
    return Trial(pipe, trial.shape, call, trial.guided, trial.unguided, call_latents=seeded)


@recipe("FluxControlPipeline")
def flux_control(dtype: torch.dtype) -> Trial:
    trial = flux(dtype)
    config = {**TRANSFORMER, "in_channels": 32, "out_channels": 16}
    parts = {
        name: part for name, part in trial.pipe.components.items() if "image" not in name and "feature" not in name
    }
    parts["transformer"] = random(FluxTransformer2DModel, dtype, **config, guidance_embeds=True)
    call = {name: value for name, value in trial.call.items() if "negative" not in name}
    call["control_image"] = normal(BATCH, 3, 8, 8, dtype=dtype, seed=4)
    pipe = FluxControlPipeline(**parts)
    return Trial(pipe, trial.shape, call, {"guidance_scale": 3.5}, {"guidance_scale": 1.0}, call_latents=seeded)
