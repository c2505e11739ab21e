"""CogVideoX: text to video."""

from dataclasses import replace
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXFunControlPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)

from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "out_channels": 4,
    "time_embed_dim": 8,
    "text_embed_dim": 32,
    "num_layers": 1,
    "sample_width": 4,
    "sample_height": 4,
    "sample_frames": 9,
    "max_text_seq_length": 5,
}
VAE = {
    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
    "block_out_channels": (8, 8, 8, 8),
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
}


@recipe("CogVideoXPipeline")
def cogvideox(dtype: torch.dtype) -> Trial:
    transformer = random(CogVideoXTransformer3DModel, dtype, **TRANSFORMER, in_channels=4)
    return trial(CogVideoXPipeline(**parts(dtype), transformer=transformer), dtype, {"num_frames": 9})


@recipe("CogVideoXPipeline with patches of two frames")
def cogvideox_1_5(dtype: torch.dtype) -> Trial:
    """CogVideoX 1.5: a frame is put before the three others, to fill a patch."""
    config = {**TRANSFORMER, "patch_size_t": 2, "patch_bias": False, "use_rotary_positional_embeddings": True}
    transformer = random(CogVideoXTransformer3DModel, dtype, **config, in_channels=4)
    made = trial(CogVideoXPipeline(**parts(dtype), transformer=transformer), dtype, {"num_frames": 9})
    return replace(made, shape=(BATCH, 4, 4, 4, 4))


@recipe("CogVideoXFunControlPipeline")
def cogvideox_fun_control(dtype: torch.dtype) -> Trial:
    """The pipeline encodes the control video in each call."""
    transformer = random(CogVideoXTransformer3DModel, dtype, **TRANSFORMER, in_channels=8)
    control = normal(BATCH, 9, 3, 32, 32).sigmoid()
    return trial(
        CogVideoXFunControlPipeline(**parts(dtype), transformer=transformer), dtype, {"control_video": control}
    )


def parts(dtype: torch.dtype) -> dict[str, Any]:
    vae = random(AutoencoderKLCogVideoX, dtype, **VAE)
    scheduler = CogVideoXDDIMScheduler(prediction_type="v_prediction", snr_shift_scale=1.0, timestep_spacing="trailing")
    return {"tokenizer": None, "text_encoder": None, "vae": vae, "scheduler": scheduler}


def trial(pipe: Any, dtype: torch.dtype, call: dict[str, Any]) -> Trial:
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "height": 32,
        "width": 32,
        **call,
    }
    guided = {"guidance_scale": 3.0, "use_dynamic_cfg": True}
    return Trial(pipe, (BATCH, 3, 4, 4, 4), call, guided, {"guidance_scale": 1.0})
