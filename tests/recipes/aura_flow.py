"""AuraFlow."""

import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, AutoencoderKL, FlowMatchEulerDiscreteScheduler

from tests.recipes.trial import BATCH, Trial, normal, prompt_mask, random, recipe


@recipe("AuraFlowPipeline")
def aura_flow(dtype: torch.dtype) -> Trial:
    pipe = AuraFlowPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=random(AutoencoderKL, dtype, block_out_channels=(32,), latent_channels=4),
        transformer=random(
            AuraFlowTransformer2DModel,
            dtype,
            sample_size=8,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pos_embed_max_size=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "prompt_attention_mask": prompt_mask(),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_attention_mask": prompt_mask(),
        "height": 8,
        "width": 8,
    }
    return Trial(pipe, (BATCH, 4, 8, 8), call, {"guidance_scale": 3.5}, {"guidance_scale": 1.0})
