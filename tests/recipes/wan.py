"""Wan: text to video."""

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

from tests.recipes.trial import BATCH, Trial, normal, random, recipe


@recipe("WanPipeline")
def wan(dtype: torch.dtype) -> Trial:
    pipe = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=random(AutoencoderKLWan, torch.float32, base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        transformer=random(
            WanTransformer3DModel,
            dtype,
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=32,
            ffn_dim=32,
            num_layers=1,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "height": 16,
        "width": 16,
        "num_frames": 9,
    }
    shape = (BATCH, 16, 3, 2, 2)
    return Trial(pipe, shape, call, {"guidance_scale": 3.0}, {"guidance_scale": 1.0}, dtype=torch.float32)
