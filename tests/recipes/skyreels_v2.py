"""SkyReels-V2: text to video."""

import torch
from diffusers import SkyReelsV2Pipeline, SkyReelsV2Transformer3DModel, UniPCMultistepScheduler

from tests.recipes import vaes
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 32,
    "num_layers": 1,
    "rope_max_seq_len": 32,
}


@recipe("SkyReelsV2Pipeline")
def skyreels_v2(dtype: torch.dtype) -> Trial:
    pipe = SkyReelsV2Pipeline(
        tokenizer=None,
        text_encoder=None,
        transformer=random(SkyReelsV2Transformer3DModel, dtype, **TRANSFORMER),
        vae=vaes.wan(dtype),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "height": 32,
        "width": 32,
        "num_frames": 5,
    }
    guided, unguided = {"guidance_scale": 3.0}, {"guidance_scale": 1.0}
    return Trial(pipe, (BATCH, 4, 2, 4, 4), call, guided, unguided, dtype=torch.float32)
