"""Networks of the published sizes with random weights, in checkpoints that are small otherwise: nothing is downloaded.

Speed depends on a network's shape and not on its weights. The shapes are those of stable-diffusion-v1-5,
stable-diffusion-xl-base-1.0 and stable-diffusion-3-medium: the networks whole, the text encoders in their widths, the
captions in their length of 77 tokens, the latents at 1/8 of the pictures' sides.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from torch import nn
from transformers import CLIPTextConfig, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from edict import EDICT
from edict.checkpoint import DEFAULT
from edict.models import MODELS
from edict.models.parts import class_of

TOKENS = 77
NOISE = DDIMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False
)


@dataclass(frozen=True)
class Shape:
    """A pipeline, the widths of its text encoders, and its network: `config`, made small by what `narrow` changes."""

    pipeline: str
    widths: Sequence[int]
    scheduler: SchedulerMixin
    config: Mapping[str, Any]
    narrow: Mapping[str, Any]

    @property
    def network(self) -> Any:
        """The class of the network."""
        model = MODELS[self.pipeline]
        return class_of(model.parts[model.denoiser])


SHAPES = {
    "sd15": Shape(
        "StableDiffusionPipeline",
        (768,),
        NOISE,
        {
            "sample_size": 64,
            "block_out_channels": (320, 640, 1280, 1280),
            "cross_attention_dim": 768,
            "attention_head_dim": 8,  # heads, for all that it is called
        },
        {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1},
    ),
    "sdxl": Shape(
        "StableDiffusionXLPipeline",
        (768, 1280),
        NOISE,
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
        {
            "block_out_channels": (32, 32, 32),
            "layers_per_block": 1,
            "transformer_layers_per_block": 1,
            "attention_head_dim": (4, 4, 4),
        },
    ),
    "sd3": Shape(
        "StableDiffusion3Pipeline",
        (768, 1280),  # without T5, in the place of whose 256 tokens are zeros: the sequence is as long
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        {
            "sample_size": 128,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 24,
            "num_attention_heads": 24,
            "attention_head_dim": 64,
            "caption_projection_dim": 24 * 64,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768 + 1280,
            "pos_embed_max_size": 192,
        },
        {"num_layers": 2, "num_attention_heads": 2, "caption_projection_dim": 2 * 64},
    ),
}


def load(name: str, folder: Path, *, dtype: torch.dtype, device: str, small: bool) -> EDICT:
    """The model of a shape, as EDICT loads a checkpoint: the one in `folder`, written there at first.

    `small` is with the narrow network, on 16x16 latents. Else the checkpoint's narrow network gives its place to the
    whole one, which is made on the device, so that no gigabytes are written and read.
    """
    transformers_logging.disable_progress_bar()
    shape = SHAPES[name]
    config = {**shape.config, **shape.narrow, "sample_size": 16} if small else shape.config
    if not folder.exists():
        torch.manual_seed(0)
        _write(shape, shape.network(**{**config, **shape.narrow}), folder)
    model = EDICT.from_pretrained(folder, dtype=dtype, device=device)
    if not small:
        torch.manual_seed(0)
        with torch.device(device):
            network = shape.network(**config)
        nn.Module.to(network, dtype)
        setattr(model.model, model.model.denoiser, network.requires_grad_(False).eval())
    return model


def _write(shape: Shape, network: Any, folder: Path) -> None:
    """A checkpoint around a network."""
    model = MODELS[shape.pipeline]
    tokenizer = CLIPTokenizer.from_pretrained(DEFAULT / "tokenizer", model_max_length=TOKENS)
    parts = {model.denoiser: network, "scheduler": shape.scheduler}
    parts["vae"] = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 8, 8, 8),
        norm_num_groups=2,
        latent_channels=network.config.in_channels,
    )
    for number, width in enumerate(shape.widths, 1):
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width,
            projection_dim=width,
            num_hidden_layers=1,
            num_attention_heads=width // 64,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        which = f"_{number}" if number > 1 else ""
        parts[f"text_encoder{which}"] = class_of(model.parts[f"text_encoder{which}"])(config)
        parts[f"tokenizer{which}"] = tokenizer
    for part, value in parts.items():
        value.save_pretrained(folder / part)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": shape.pipeline, **model.parts}))
