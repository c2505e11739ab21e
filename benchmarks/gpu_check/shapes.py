"""Checkpoints with the published sizes and random weights: speed depends on the shapes, so nothing is downloaded.

The shapes are those of stable-diffusion-v1-5, stable-diffusion-xl-base-1.0 and FLUX.1-dev: network, autoencoder and
text encoders. The tokenizers are small ones; captions have the published number of tokens.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SchedulerMixin,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)
from transformers.utils import logging as transformers_logging

from benchmarks.gpu_check import bits
from edict import EDICT
from edict.checkpoint import DEFAULT

TOKENS = 77
NOISE = DDIMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False
)


@dataclass(frozen=True)
class Shape:
    """A pipeline: the class and configuration of its networks by component, and the changes that make each narrow."""

    pipeline: str
    scheduler: SchedulerMixin
    networks: Mapping[str, tuple[Any, dict[str, Any]]]
    narrow: Mapping[str, dict[str, Any]]
    small: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Changes for images of 128 pixels."""

    def build(self, component: str, *, narrow: bool, small: bool) -> Any:
        """Return a network with random weights."""
        kind, config = self.networks[component]
        config = config | (self.narrow[component] if narrow else {})
        config |= self.small.get(component, {}) if small else {}
        if component.startswith("text_encoder"):
            return kind(T5Config(**config) if "d_model" in config else _clip_config(**config))
        return kind(**config)


def _clip_config(**config: Any) -> CLIPTextConfig:
    tokenizer = _clip_tokenizer()
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=TOKENS, **special, **config)


def _clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(DEFAULT / "tokenizer", model_max_length=TOKENS)


def _t5_tokenizer() -> T5TokenizerFast:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *map(chr, range(33, 127))]
    return T5TokenizerFast(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)


def _autoencoder(latent_channels: int, sample_size: int, **more: Any) -> tuple[Any, dict[str, Any]]:
    return AutoencoderKL, {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": latent_channels,
        "sample_size": sample_size,
        **more,
    }


def _clip(kind: Any, width: int, layers: int, heads: int, **more: Any) -> tuple[Any, dict[str, Any]]:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    return kind, sizes | {"num_attention_heads": heads, "projection_dim": width, **more}


CLIP_L = _clip(CLIPTextModel, 768, 12, 12)
CLIP_BIG_G = _clip(CLIPTextModelWithProjection, 1280, 32, 20, hidden_act="gelu")
NARROW_AUTOENCODER = {"block_out_channels": (4, 8, 8, 8), "norm_num_groups": 2, "layers_per_block": 1}
NARROW_CLIP = {"num_hidden_layers": 1, "intermediate_size": 16}
NARROW_UNET = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}

SHAPES = {
    "sd15": Shape(
        "StableDiffusionPipeline",
        NOISE,
        {
            "unet": (
                UNet2DConditionModel,
                {
                    "sample_size": 64,
                    "block_out_channels": (320, 640, 1280, 1280),
                    "cross_attention_dim": 768,
                    "attention_head_dim": 8,  # the number of heads, despite its name
                },
            ),
            "vae": _autoencoder(4, 512),
            "text_encoder": CLIP_L,
        },
        {"unet": NARROW_UNET, "vae": NARROW_AUTOENCODER, "text_encoder": NARROW_CLIP},
        {"unet": {"sample_size": 16}},
    ),
    "sdxl": Shape(
        "StableDiffusionXLPipeline",
        NOISE,
        {
            "unet": (
                UNet2DConditionModel,
                {
                    "sample_size": 128,
                    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                    "block_out_channels": (320, 640, 1280),
                    "transformer_layers_per_block": (1, 2, 10),
                    "attention_head_dim": (5, 10, 20),
                    "cross_attention_dim": 768 + 1280,
                    "use_linear_projection": True,
                    "addition_embed_type": "text_time",
                    "addition_time_embed_dim": 256,
                    "projection_class_embeddings_input_dim": 1280 + 6 * 256,
                },
            ),
            "vae": _autoencoder(4, 1024, scaling_factor=0.13025),
            "text_encoder": CLIP_L,
            "text_encoder_2": CLIP_BIG_G,
        },
        {
            "unet": {
                "block_out_channels": (32, 32, 32),
                "layers_per_block": 1,
                "transformer_layers_per_block": 1,
                "attention_head_dim": (4, 4, 4),
            },
            "vae": NARROW_AUTOENCODER,
            "text_encoder": NARROW_CLIP,
            "text_encoder_2": NARROW_CLIP,
        },
        {"unet": {"sample_size": 16}},
    ),
    "flux": Shape(
        "FluxPipeline",
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        {
            "transformer": (
                FluxTransformer2DModel,
                {
                    "in_channels": 64,
                    "num_layers": 19,
                    "num_single_layers": 38,
                    "attention_head_dim": 128,
                    "num_attention_heads": 24,
                    "joint_attention_dim": 4096,
                    "pooled_projection_dim": 768,
                    "guidance_embeds": True,
                    "axes_dims_rope": (16, 56, 56),
                },
            ),
            "vae": _autoencoder(
                16, 1024, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
            ),
            "text_encoder": CLIP_L,
            "text_encoder_2": (
                T5EncoderModel,
                {
                    "vocab_size": 32128,
                    "d_model": 4096,
                    "d_kv": 64,
                    "d_ff": 10240,
                    "num_layers": 24,
                    "num_heads": 64,
                    "feed_forward_proj": "gated-gelu",
                },
            ),
        },
        {
            "transformer": {
                "num_layers": 1,
                "num_single_layers": 1,
                "attention_head_dim": 8,
                "num_attention_heads": 2,
                "joint_attention_dim": 32,
                "axes_dims_rope": (2, 2, 4),
            },
            "vae": NARROW_AUTOENCODER,
            "text_encoder": NARROW_CLIP,
            "text_encoder_2": {"d_model": 32, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
        },
        {"vae": {"sample_size": 128}},
    ),
}


def load(name: str, folder: Path, *, dtype: torch.dtype, device: str, small: bool) -> EDICT:
    """Load the model of a shape as EDICT loads a checkpoint: the one in `folder`, which is written first if absent.

    The checkpoint on disk has narrow networks. Unless `small`, full ones replace them. They are made on the device in
    their dtype, so gigabytes are neither written nor read. `small` keeps the narrow ones, for images of 128 pixels.
    """
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    shape = SHAPES[name]
    if not folder.exists():
        torch.manual_seed(0)
        _write(shape, folder, small)
    model = bits.load(folder, dtype, device)
    if not small:
        for component in shape.networks:
            setattr(model.backend, component, None)  # This frees the narrow one.
            whole = _on_device(shape, component, torch.float32 if component == "vae" else dtype, device)
            setattr(model.backend, component, whole)
        model.direct.vae.enable_slicing()
    return model


def _on_device(shape: Shape, component: str, dtype: torch.dtype, device: str) -> nn.Module:
    default = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            network: nn.Module = shape.build(component, narrow=False, small=False)
    finally:
        torch.set_default_dtype(default)
    return nn.Module.to(network, dtype).requires_grad_(False).eval()


def _write(shape: Shape, folder: Path, small: bool) -> None:
    """Write a checkpoint with narrow networks."""
    components: dict[str, Any] = {"scheduler": shape.scheduler}
    for component in shape.networks:
        components[component] = network = shape.build(component, narrow=True, small=small)
        if component.startswith("text_encoder"):
            kind = _t5_tokenizer if isinstance(network.config, T5Config) else _clip_tokenizer
            components[component.replace("text_encoder", "tokenizer")] = kind()
    index: dict[str, Any] = {"_class_name": shape.pipeline}
    for component, value in components.items():
        value.save_pretrained(folder / component)
        index[component] = [type(value).__module__.split(".")[0], type(value).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
