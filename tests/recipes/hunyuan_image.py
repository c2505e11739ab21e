"""HunyuanImage 2.1."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanImage,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
)

from tests.recipes.trial import BATCH, Trial, normal, prompt_mask, random, recipe

TRANSFORMER = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "patch_size": (1, 1),
    "text_embed_dim": 32,
    "text_embed_2_dim": 32,
    "rope_axes_dim": (8, 8),
}
SHAPE = (BATCH, 4, 4, 4)


def pipeline(dtype: torch.dtype, *, guidance_embeds: bool, guider: Any) -> HunyuanImagePipeline:
    return HunyuanImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        vae=random(
            AutoencoderKLHunyuanImage,
            dtype,
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(32, 32),
            layers_per_block=1,
            spatial_compression_ratio=2,
            sample_size=8,
            scaling_factor=0.75,
        ),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=random(HunyuanImageTransformer2DModel, dtype, **TRANSFORMER, guidance_embeds=guidance_embeds),
        guider=guider,
        ocr_guider=guider,
    )


def prompts(dtype: torch.dtype) -> dict[str, Any]:
    return {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_embeds_mask": prompt_mask(),
        "prompt_embeds_2": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "prompt_embeds_mask_2": prompt_mask(),
        "height": 8,
        "width": 8,
    }


@recipe("HunyuanImagePipeline")
def hunyuan_image(dtype: torch.dtype) -> Trial:
    pipe = pipeline(dtype, guidance_embeds=True, guider=None)
    guided, unguided = {"distilled_guidance_scale": 3.25}, {"distilled_guidance_scale": 1.0}
    return Trial(pipe, SHAPE, prompts(dtype), guided, unguided)


@recipe("HunyuanImagePipeline with classifier-free guidance")
def hunyuan_image_guider(dtype: torch.dtype) -> Trial:
    """With AdaptiveProjectedMixGuidance, which has a momentum and goes by the loop's index, no round trip is exact."""
    call = {
        **prompts(dtype),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=3),
        "negative_prompt_embeds_mask": prompt_mask(),
        "negative_prompt_embeds_2": normal(BATCH, 5, 32, dtype=dtype, seed=4),
        "negative_prompt_embeds_mask_2": prompt_mask(),
    }
    return Trial(pipeline(dtype, guidance_embeds=False, guider=ClassifierFreeGuidance(3.5)), SHAPE, call)
