"""Networks that torchao quantizes as their pipeline is loaded."""

from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import PipelineQuantizationConfig, TorchAoConfig
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
)

from tests.recipes.flux import flux
from tests.recipes.lora import load_lora
from tests.recipes.qwen_image import qwen_image
from tests.recipes.trial import Trial, recipe
from tests.recipes.wan import wan


def quantized(trial: Trial, kind: Any, dtype: torch.dtype) -> Trial:
    """Return the trial with its pipeline saved, and loaded with a quantized denoiser."""
    config = PipelineQuantizationConfig(quant_mapping={trial.denoiser: TorchAoConfig(kind)})
    absent = {name: None for name, part in trial.pipe.components.items() if part is None}
    with TemporaryDirectory() as folder:
        trial.pipe.save_pretrained(folder)
        pipe = type(trial.pipe).from_pretrained(folder, quantization_config=config, dtype=dtype, **absent)
    return replace(trial, pipe=pipe)


@recipe("FluxPipeline with int8 weights")
def flux_int8(dtype: torch.dtype) -> Trial:
    return quantized(flux(dtype), Int8WeightOnlyConfig(), dtype)


@recipe("FluxPipeline with int8 weights and a LoRA")
def flux_int8_lora(dtype: torch.dtype) -> Trial:
    return load_lora(flux_int8(dtype))


@recipe("QwenImagePipeline with int8 weights and activations")
def qwen_image_int8(dtype: torch.dtype) -> Trial:
    return quantized(qwen_image(dtype), Int8DynamicActivationInt8WeightConfig(), dtype)


@recipe("WanPipeline with float8 weights")
def wan_float8(dtype: torch.dtype) -> Trial:
    return quantized(wan(dtype), Float8WeightOnlyConfig(), dtype)
