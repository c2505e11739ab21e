"""Sound: latents of a waveform, or of its spectrogram."""

import torch
from diffusers import (
    AudioLDM2Pipeline,
    AudioLDM2UNet2DConditionModel,
    AutoencoderKL,
    AutoencoderSAME,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableAudio3DiTModel,
    StableAudio3Pipeline,
)
from diffusers.pipelines.stable_audio_3 import StableAudio3DurationEmbedder
from transformers import GPT2Config, GPT2LMHeadModel, SpeechT5HifiGan, SpeechT5HifiGanConfig, T5Config, T5EncoderModel

from tests.recipes.stable_diffusion import BETAS
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

GUIDED, UNGUIDED = {"guidance_scale": 3.0}, {"guidance_scale": 1.0}


@recipe("StableAudio3Pipeline")
def stable_audio_3(dtype: torch.dtype) -> Trial:
    heads = {"use_differential_attention": False, "ff_mult": 2}
    vae = random(
        AutoencoderSAME,
        dtype,
        **heads,
        patch_size=2,
        encoder_channels=8,
        encoder_c_mults=(2,),
        encoder_strides=(2,),
        encoder_transformer_depths=(1,),
        latent_dim=8,
        dim_heads=4,
        sampling_rate=16,
    )
    transformer = random(
        StableAudio3DiTModel,
        dtype,
        **heads,
        io_channels=8,
        patch_size=1,
        embed_dim=32,
        depth=1,
        num_heads=2,
        cond_token_dim=16,
        global_cond_dim=16,
        local_add_cond_dim=5,
        timestep_features_dim=16,
        num_memory_tokens=2,
    )
    pipe = StableAudio3Pipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        duration_embedder=random(StableAudio3DurationEmbedder, dtype, output_dim=16, fourier_dim=16),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1),
    )
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    call = {
        "prompt_embeds": normal(BATCH, 5, 16, dtype=dtype),
        "encoder_attention_mask": mask,
        "negative_prompt_embeds": normal(BATCH, 5, 16, dtype=dtype, seed=2),
        "negative_encoder_attention_mask": mask,
        "duration": 2.0,
    }
    return Trial(pipe, (BATCH, 8, 8), call, GUIDED, UNGUIDED)


@recipe("AudioLDM2Pipeline")
def audio_ldm_2(dtype: torch.dtype) -> Trial:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = random(
        AutoencoderKL, dtype, **blocks, in_channels=1, out_channels=1, block_out_channels=(32, 64), latent_channels=4
    )
    unet = random(
        AudioLDM2UNet2DConditionModel,
        dtype,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=((None, 16, 32),) * 2,
    )
    t5 = T5Config(vocab_size=8, d_model=32, d_ff=32, d_kv=8, num_heads=1, num_layers=1)
    gpt = GPT2Config(n_embd=16, n_head=1, n_layer=1, vocab_size=8)
    vocoder = SpeechT5HifiGanConfig(
        model_in_dim=16, upsample_initial_channel=8, upsample_rates=[2, 2], upsample_kernel_sizes=[4, 4]
    )
    pipe = AudioLDM2Pipeline(
        vae=vae,
        text_encoder=None,
        text_encoder_2=random(T5EncoderModel, dtype, config=t5),
        projection_model=None,
        language_model=random(GPT2LMHeadModel, dtype, config=gpt),
        tokenizer=None,
        tokenizer_2=None,
        feature_extractor=None,
        unet=unet,
        scheduler=DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        vocoder=SpeechT5HifiGan(vocoder),
    )
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    call = {
        "prompt_embeds": normal(BATCH, 5, 32, dtype=dtype),
        "attention_mask": mask,
        "generated_prompt_embeds": normal(BATCH, 3, 16, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 5, 32, dtype=dtype, seed=2),
        "negative_attention_mask": mask,
        "negative_generated_prompt_embeds": normal(BATCH, 3, 16, dtype=dtype, seed=3),
        "audio_length_in_s": 0.01,
    }
    return Trial(pipe, (BATCH, 4, 8, 8), call, GUIDED, UNGUIDED, denoiser="unet")
