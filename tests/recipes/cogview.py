"""CogView 3 Plus, and CogView 4 with a control image."""

import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    CogView4ControlPipeline,
    CogView4Transformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)

from tests.recipes.seeded import seeded
from tests.recipes.stable_diffusion import BETAS, vae
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

TRANSFORMER = {
    "num_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "out_channels": 4,
    "text_embed_dim": 32,
    "time_embed_dim": 8,
    "condition_dim": 4,
    "sample_size": 8,
}
GUIDED, UNGUIDED = {"guidance_scale": 3.0}, {"guidance_scale": 1.0}


def prompts(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {
        "prompt_embeds": normal(BATCH, 16, 32, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 16, 32, dtype=dtype, seed=2),
    }


@recipe("CogView3PlusPipeline")
def cogview3_plus(dtype: torch.dtype) -> Trial:
    pipe = CogView3PlusPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae(dtype),
        transformer=random(CogView3PlusTransformer2DModel, dtype, **TRANSFORMER, in_channels=4, pos_embed_max_size=8),
        scheduler=CogVideoXDDIMScheduler(**BETAS, prediction_type="v_prediction", snr_shift_scale=4.0),
    )
    return Trial(pipe, (BATCH, 4, 8, 8), prompts(dtype), GUIDED, UNGUIDED)


@recipe("CogView4ControlPipeline")
def cogview4_control(dtype: torch.dtype) -> Trial:
    shifting = {"base_shift": 0.25, "max_shift": 0.75, "use_dynamic_shifting": True, "time_shift_type": "linear"}
    pipe = CogView4ControlPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae(dtype),
        transformer=random(CogView4Transformer2DModel, dtype, **TRANSFORMER, in_channels=8, rope_axes_dim=(32, 32)),
        scheduler=FlowMatchEulerDiscreteScheduler(**shifting),
    )
    call = {**prompts(dtype), "control_image": normal(BATCH, 3, 16, 16, dtype=dtype, seed=4), "height": 16, "width": 16}
    return Trial(pipe, (BATCH, 4, 8, 8), call, GUIDED, UNGUIDED, dtype=torch.float32, call_latents=seeded)
