"""Text to video by ModelScope: a UNet over frames. The scheduler of this pipeline is given frames as samples."""

import torch
from diffusers import DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel

from tests.recipes import vaes
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

FRAMES = 2
UNET = {
    "sample_size": 4,
    "block_out_channels": (8,),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock3D",),
    "up_block_types": ("CrossAttnUpBlock3D",),
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 2,
}


@recipe("TextToVideoSDPipeline")
def text_to_video(dtype: torch.dtype) -> Trial:
    pipe = TextToVideoSDPipeline(
        vae=vaes.stable_diffusion(dtype),
        text_encoder=None,
        tokenizer=None,
        unet=random(UNet3DConditionModel, dtype, **UNET),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False),
    )
    call = {
        "prompt_embeds": normal(BATCH, 7, 8, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 7, 8, dtype=dtype, seed=2),
        "num_frames": FRAMES,
    }

    def given(frames: torch.Tensor) -> torch.Tensor:
        return frames.unflatten(0, (BATCH, FRAMES)).transpose(1, 2)

    shape, guided, unguided = (BATCH * FRAMES, 4, 4, 4), {"guidance_scale": 3.0}, {"guidance_scale": 1.0}
    return Trial(pipe, shape, call, guided, unguided, denoiser="unet", call_latents=given)
