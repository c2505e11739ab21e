"""LongCat-Image."""

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from tests.recipes.text import PROMPTS, VOCABULARY, text_encoder, tokenizer
from tests.recipes.trial import BATCH, Trial, random, recipe

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": VOCABULARY,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
}
VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}


@recipe("LongCatImagePipeline")
def longcat_image(dtype: torch.dtype) -> Trial:
    pipe = LongCatImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=random(AutoencoderKL, dtype, block_out_channels=(32,), latent_channels=16, shift_factor=0.1),
        text_encoder=text_encoder(
            Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig(text_config=TEXT, vision_config=VISION), dtype
        ),
        tokenizer=tokenizer(),
        text_processor=None,  # rewrites prompts
        transformer=random(
            LongCatImageTransformer2DModel,
            dtype,
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=[4, 4, 8],
        ),
    )
    pipe.tokenizer_max_length = 16
    call = {**PROMPTS, "enable_prompt_rewrite": False, "height": 8, "width": 8}
    return Trial(pipe, (BATCH, 16, 64), call, {"guidance_scale": 4.5}, {"guidance_scale": 1.0})
