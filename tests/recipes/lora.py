"""LoRAs, loaded by the pipeline's own method."""

import torch

from tests.recipes.flux import flux
from tests.recipes.stable_diffusion import stable_diffusion
from tests.recipes.trial import Trial, normal, recipe

RANK = 2


def load_lora(trial: Trial) -> Trial:
    """Load a LoRA for the attention of the denoiser into the trial's pipeline."""
    (network,) = trial.networks
    weights = {}
    for name, module in network.named_modules():
        if name.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            weights[f"{trial.denoiser}.{name}.lora_A.weight"] = normal(RANK, module.in_features) / 4
            weights[f"{trial.denoiser}.{name}.lora_B.weight"] = normal(module.out_features, RANK) / 4
    trial.pipe.load_lora_weights(weights)
    return trial


@recipe("StableDiffusionPipeline with a LoRA")
def lora(dtype: torch.dtype) -> Trial:
    trial = load_lora(stable_diffusion(dtype))
    trial.pipe.set_adapters("default_0", 0.7)
    return trial


@recipe("StableDiffusionPipeline with a fused LoRA")
def fused_lora(dtype: torch.dtype) -> Trial:
    trial = load_lora(stable_diffusion(dtype))
    trial.pipe.fuse_lora(lora_scale=0.7)
    trial.pipe.unload_lora_weights()
    return trial


@recipe("FluxPipeline with a LoRA")
def flux_lora(dtype: torch.dtype) -> Trial:
    trial = load_lora(flux(dtype))
    trial.call["joint_attention_kwargs"] = {"scale": 0.7}
    return trial
