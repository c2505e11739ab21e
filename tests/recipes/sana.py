"""Sana."""

import torch
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

from tests.recipes.trial import BATCH, Trial, normal, prompt_mask, random, recipe


@recipe("SanaPipeline")
def sana(dtype: torch.dtype) -> Trial:
    vae = random(
        AutoencoderDC,
        dtype,
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        downsample_block_type="conv",
    )
    pipe = SanaPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=random(
            SanaTransformer2DModel,
            dtype,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=32,
            sample_size=8,
        ),
        scheduler=DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_attention_mask": prompt_mask(),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_attention_mask": prompt_mask(),
        "negative_prompt": None,
        "height": 32,
        "width": 32,
        "use_resolution_binning": False,
    }
    shape = (BATCH, 4, 16, 16)
    return Trial(pipe, shape, call, {"guidance_scale": 4.5}, {"guidance_scale": 1.0}, dtype=torch.float32)
