"""Qwen-Image and Qwen-Image 2.1."""

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from transformers import CLIPImageProcessor, LlavaProcessor

from tests.recipes.text import tokenizer
from tests.recipes.trial import BATCH, Trial, normal, prompt_mask, random, recipe


def vae(dtype: torch.dtype) -> AutoencoderKLQwenImage:
    return random(
        AutoencoderKLQwenImage,
        dtype,
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1] * 4,
        latents_std=[2.0] * 4,
    )


@recipe("QwenImagePipeline")
def qwen_image(dtype: torch.dtype) -> Trial:
    pipe = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
        vae=vae(dtype),
        text_encoder=None,
        tokenizer=None,
        transformer=random(
            QwenImageTransformer2DModel,
            dtype,
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(8, 4, 4),
        ),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_embeds_mask": prompt_mask(),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_embeds_mask": prompt_mask(),
        "height": 16,
        "width": 16,
    }
    return Trial(pipe, (BATCH, 16, 16), call, {"true_cfg_scale": 4.0}, {"true_cfg_scale": 1.0})


@recipe("QwenImage21Pipeline")
def qwen_image_21(dtype: torch.dtype) -> Trial:
    """Without its cache, which the first call fills and the others read: their bits may differ."""
    pipe = QwenImage21Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=random(
            AutoencoderKLQwenImage21,
            dtype,
            base_dim=8,
            decoder_base_dim=8,
            z_dim=4,
            dim_mult=[1] * 5,
            num_res_blocks=1,
            temperal_downsample=[False] * 4,
            latents_mean=[0.1] * 4,
            latents_std=[2.0] * 4,
        ),
        text_encoder=None,
        # For its length of the system prompt. Its own Qwen3VLProcessor needs torchvision.
        processor=LlavaProcessor(CLIPImageProcessor(), tokenizer(), chat_template="{{ messages[0].content[0].text }}"),
        transformer=random(
            QwenImage21Transformer2DModel,
            dtype,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            context_in_dim=32,
            axes_dims_rope=(8, 4, 4),
        ),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_embeds_mask": prompt_mask(),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_embeds_mask": prompt_mask(),
        "height": 64,
        "width": 64,
        "use_kv_cache": False,
    }
    return Trial(pipe, (BATCH, 16, 4), call, {"true_cfg_scale": 4.0}, {"true_cfg_scale": 1.0})
