"""Sana Video: text to video."""

import torch
from diffusers import DPMSolverMultistepScheduler, SanaVideoPipeline, SanaVideoTransformer3DModel

from tests.recipes import vaes
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "num_layers": 1,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 12,
    "cross_attention_dim": 24,
    "caption_channels": 32,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 32,
}


@recipe("SanaVideoPipeline")
def sana_video(dtype: torch.dtype) -> Trial:
    pipe = SanaVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vaes.wan(dtype),
        transformer=random(SanaVideoTransformer3DModel, dtype, **TRANSFORMER),
        scheduler=DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=8.0, final_sigmas_type="zero"
        ),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_attention_mask": torch.ones(BATCH, 5),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_attention_mask": torch.ones(BATCH, 5),
        "height": 32,
        "width": 32,
        "frames": 5,
        "use_resolution_binning": False,
        "negative_prompt": None,
    }
    guided, unguided = {"guidance_scale": 3.0}, {"guidance_scale": 1.0}
    return Trial(pipe, (BATCH, 4, 2, 4, 4), call, guided, unguided, dtype=torch.float32)
