"""Qwen-Image with a ControlNet."""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    QwenImageControlNetModel,
    QwenImageControlNetPipeline,
    QwenImageTransformer2DModel,
)

from tests.recipes.qwen_image import vae
from tests.recipes.seeded import seeded
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": (8, 4, 4),
}


@recipe("QwenImageControlNetPipeline")
def qwen_image_controlnet(dtype: torch.dtype) -> Trial:
    pipe = QwenImageControlNetPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
        vae=vae(dtype),
        text_encoder=None,
        tokenizer=None,
        transformer=random(QwenImageTransformer2DModel, dtype, **TRANSFORMER),
        controlnet=random(QwenImageControlNetModel, dtype, **TRANSFORMER),
    )
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_embeds_mask": mask,
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_embeds_mask": mask,
        "control_image": normal(BATCH, 3, 16, 16, dtype=dtype, seed=4),
        "height": 16,
        "width": 16,
    }
    return Trial(pipe, (BATCH, 16, 16), call, {"true_cfg_scale": 4.0}, {"true_cfg_scale": 1.0}, call_latents=seeded)
