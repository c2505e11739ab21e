"""BRIA Fibo and Fibo 2."""

import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLWan,
    BriaFibo2Pipeline,
    BriaFibo2Transformer2DModel,
    BriaFiboPipeline,
    BriaFiboTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)
from transformers import SmolLM3Config, SmolLM3ForCausalLM

from tests.recipes.text import PROMPTS, VOCABULARY, text_encoder, tokenizer
from tests.recipes.trial import BATCH, Trial, normal, prompt_mask, random, recipe


@recipe("BriaFiboPipeline")
def bria_fibo(dtype: torch.dtype) -> Trial:
    text = SmolLM3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    pipe = BriaFiboPipeline(
        transformer=random(
            BriaFiboTransformer2DModel,
            dtype,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=64,
            text_encoder_dim=32,
            axes_dims_rope=[4, 4, 8],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=random(
            AutoencoderKLWan,
            dtype,
            base_dim=3,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            in_channels=12,
            out_channels=12,
            patch_size=2,
            scale_factor_spatial=16,
        ),
        text_encoder=text_encoder(SmolLM3ForCausalLM, text, dtype),
        tokenizer=tokenizer(),
    )
    call = {**PROMPTS, "height": 64, "width": 64}
    return Trial(pipe, (BATCH, 16, 16), call, {"guidance_scale": 5.0}, {"guidance_scale": 1.0})


@recipe("BriaFibo2Pipeline")
def bria_fibo2(dtype: torch.dtype) -> Trial:
    pipe = BriaFibo2Pipeline(
        transformer=random(
            BriaFibo2Transformer2DModel,
            dtype,
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            cap_feat_dim=32,
            injection_layer_ids=(1,),
            perceiver_num_layers=1,
            min_num_gist_tokens=2,
            max_num_gist_tokens=4,
            gist_step=2,
            gist_min_text_len=2,
            gist_max_text_len=8,
            axes_dims=(8, 4, 4),
            axes_lens=(64, 16, 16),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=random(
            AutoencoderKLFlux2,
            dtype,
            block_out_channels=(32,),
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            latent_channels=4,
        ),
        text_encoder=None,
        processor=None,
    )
    call = {
        "prompt_embeds": normal(BATCH, 2, 5, 32, dtype=dtype),
        "prompt_embeds_mask": prompt_mask(torch.bool),
        "negative_prompt_embeds": normal(BATCH, 2, 5, 32, dtype=dtype, seed=2),
        "negative_prompt_embeds_mask": prompt_mask(torch.bool),
        "height": 8,
        "width": 8,
    }
    shape = (BATCH, 4, 8, 8)
    return Trial(pipe, shape, call, {"guidance_scale": 5.0}, {"guidance_scale": 1.0}, dtype=torch.float32)
