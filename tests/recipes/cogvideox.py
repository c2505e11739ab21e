"""CogVideoX: text to video."""

import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel, DDIMScheduler

from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 8,
    "text_embed_dim": 32,
    "num_layers": 1,
    "sample_width": 4,
    "sample_height": 4,
    "sample_frames": 9,
    "max_text_seq_length": 5,
}


@recipe("CogVideoXPipeline")
def cogvideox(dtype: torch.dtype) -> Trial:
    pipe = CogVideoXPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=random(CogVideoXTransformer3DModel, dtype, **TRANSFORMER),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction"),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "height": 32,
        "width": 32,
        "num_frames": 9,
    }
    guided = {"guidance_scale": 3.0, "use_dynamic_cfg": True}
    return Trial(pipe, (BATCH, 3, 4, 4, 4), call, guided, {"guidance_scale": 1.0})
