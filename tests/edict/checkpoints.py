"""Small checkpoints of every kind, with random weights in the real classes, saved by diffusers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5TokenizerFast,
)

from edict.checkpoint import DEFAULT

Folder = Callable[[str], Path]
"""A function from a kind to the folder of its checkpoint."""

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def tokenizer(pad: str | None = None) -> CLIPTokenizer:
    """Return the shipped tokenizer, of 24 tokens. `pad` is another padding token, as in SDXL's second tokenizer."""
    return CLIPTokenizer.from_pretrained(DEFAULT / "tokenizer", **({"pad_token": pad} if pad else {}))


def t5_tokenizer() -> T5TokenizerFast:
    """Return a tokenizer with every ASCII character and a few words."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁a", "▁red", "▁cat", "▁dog", "heart", *map(chr, range(33, 127))]
    return T5TokenizerFast(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)


def text_encoder(kind: type = CLIPTextModel, width: int = 16, **more: Any) -> Any:
    clip = tokenizer()
    return kind(
        CLIPTextConfig(
            vocab_size=len(clip),
            hidden_size=width,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=clip.model_max_length,
            bos_token_id=clip.bos_token_id,
            eos_token_id=clip.eos_token_id,
            pad_token_id=clip.pad_token_id,
            **more,
        )
    )


def t5_encoder(encoder: Any = T5EncoderModel) -> Any:
    size = len(t5_tokenizer())
    config = encoder.config_class(vocab_size=size, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return encoder(config)


def autoencoder(**more: Any) -> AutoencoderKL:
    """Return an autoencoder of 16x16 pixels and 8x8 latents."""
    shape = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (4, 8),
        "norm_num_groups": 2,
        "latent_channels": 4,
        "sample_size": 16,
    }
    return AutoencoderKL(**(shape | more))


def unet(**more: Any) -> UNet2DConditionModel:
    shape = {
        "sample_size": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**(shape | more))


def stable_diffusion() -> DiffusionPipeline:
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(),
        unet=unet(),
        scheduler=PNDMScheduler(**NOISE, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_2() -> DiffusionPipeline:
    """Return Stable Diffusion 2: v-prediction, linear projections, a head size per block, and another activation."""
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(hidden_act="gelu"),
        tokenizer=tokenizer(pad="!"),
        unet=unet(use_linear_projection=True, attention_head_dim=(2, 4)),
        scheduler=DDIMScheduler(**NOISE, prediction_type="v_prediction", set_alpha_to_one=False, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(zeros: bool = True) -> DiffusionPipeline:
    return StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13025, force_upcast=True),
        text_encoder=text_encoder(),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, 32, projection_dim=12),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(pad="!"),
        unet=unet(
            cross_attention_dim=48,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=12 + 6 * 8,
            use_linear_projection=True,
        ),
        scheduler=EulerDiscreteScheduler(**NOISE, timestep_spacing="leading"),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )


def pixels_unet(out_channels: int) -> UNet2DModel:
    return UNet2DModel(
        sample_size=8,
        out_channels=out_channels,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
    )


def ddpm() -> DiffusionPipeline:
    return DDPMPipeline(pixels_unet(3), DDPMScheduler())


def ddim_with_variance() -> DiffusionPipeline:
    return DDIMPipeline(pixels_unet(6), DDIMScheduler(beta_schedule="squaredcos_cap_v2"))


def stable_diffusion_3(t5: bool = True) -> DiffusionPipeline:
    return StableDiffusion3Pipeline(
        vae=autoencoder(
            latent_channels=16,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=text_encoder(CLIPTextModelWithProjection, 16, projection_dim=12),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, 8, projection_dim=4),
        text_encoder_3=t5_encoder() if t5 else None,
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(pad="!"),
        tokenizer_3=t5_tokenizer() if t5 else None,
        transformer=SD3Transformer2DModel(
            sample_size=8,
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=16,
            out_channels=16,
            pos_embed_max_size=8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux(guidance_embeds: bool = True) -> DiffusionPipeline:
    """Return FLUX.1 with dynamic shifting (dev) or without (schnell)."""
    return FluxPipeline(
        vae=autoencoder(
            latent_channels=4,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=text_encoder(),
        text_encoder_2=t5_encoder(),
        tokenizer=tokenizer(),
        tokenizer_2=t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(2, 2, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
        if guidance_embeds
        else FlowMatchEulerDiscreteScheduler(),
    )


def pixart_sigma() -> DiffusionPipeline:
    """With a variance, which its network predicts too.

    The published one's timesteps are linspace, between which diffusers' DDIM does not go from one to the next.
    """
    return PixArtSigmaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_encoder(),
        vae=autoencoder(scaling_factor=0.13025),
        transformer=PixArtTransformer2DModel(
            sample_size=8,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=4,
            out_channels=8,
            cross_attention_dim=16,
            caption_channels=32,
            norm_num_groups=4,
        ),
        scheduler=DPMSolverMultistepScheduler(
            beta_schedule="linear", beta_start=0.0001, beta_end=0.02, timestep_spacing="leading"
        ),
    )


KINDS: dict[str, Callable[[], DiffusionPipeline]] = {
    "sd1": stable_diffusion,
    "sd2": stable_diffusion_2,
    "sdxl": stable_diffusion_xl,
    "sdxl-encoded": lambda: stable_diffusion_xl(zeros=False),
    "ddpm": ddpm,
    "ddim": ddim_with_variance,
    "sd3": stable_diffusion_3,
    "sd3-without-t5": lambda: stable_diffusion_3(t5=False),
    "flux-dev": flux,
    "flux-schnell": lambda: flux(guidance_embeds=False),
    "pixart-sigma": pixart_sigma,
}


def save(kind: str, folder: Path) -> Path:
    """Save a checkpoint of a kind in `folder`. Return the folder."""
    torch.manual_seed(0)
    pipeline = KINDS[kind]()
    for name, part in pipeline.components.items():
        if name in ("unet", "transformer"):  # its last layer is often zero at first
            for weight in part.parameters():
                if not weight.any():
                    torch.nn.init.normal_(weight, std=0.05)
    pipeline.save_pretrained(folder)
    return folder
