"""HunyuanVideo: text to video."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, HunyuanVideoPipeline, HunyuanVideoTransformer3DModel

from tests.recipes import vaes
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 10,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "patch_size_t": 1,
    "text_embed_dim": 16,
    "pooled_projection_dim": 8,
    "rope_axes_dim": (2, 4, 4),
}


@recipe("HunyuanVideoPipeline")
def hunyuan_video(dtype: torch.dtype) -> Trial:
    pipe = HunyuanVideoPipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=random(HunyuanVideoTransformer3DModel, dtype, **TRANSFORMER),
        vae=vaes.hunyuan_video(dtype),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=None,
        tokenizer_2=None,
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 16, dtype=dtype),
        "pooled_prompt_embeds": normal(BATCH, 8, dtype=dtype),
        "prompt_attention_mask": torch.ones(BATCH, 5),
        "negative_prompt_embeds": normal(BATCH, 5, 16, dtype=dtype, seed=2),
        "negative_pooled_prompt_embeds": normal(BATCH, 8, dtype=dtype, seed=3),
        "negative_prompt_attention_mask": torch.ones(BATCH, 5),
        "height": 32,
        "width": 32,
        "num_frames": 5,
    }
    guided, unguided = {"true_cfg_scale": 2.0}, {"true_cfg_scale": 1.0}
    return Trial(pipe, (BATCH, 4, 2, 4, 4), call, guided, unguided, dtype=torch.float32)
