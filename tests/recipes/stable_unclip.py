"""Stable unCLIP: a UNet that takes the embedding of an image, given or made by a prior."""

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    PriorTransformer,
    StableUnCLIPImg2ImgPipeline,
    StableUnCLIPPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
)

from tests.recipes.seeded import seeded
from tests.recipes.stable_diffusion import BETAS, UNET, vae
from tests.recipes.trial import BATCH, Trial, normal, random, recipe

GUIDED, UNGUIDED = {"guidance_scale": 3.0}, {"guidance_scale": 1.0}
ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "projection_dim": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def components(dtype: torch.dtype) -> dict[str, Any]:
    classes = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 64}
    return {
        "image_normalizer": random(StableUnCLIPImageNormalizer, dtype, embedding_dim=32),
        "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "tokenizer": None,
        "text_encoder": None,
        "unet": random(UNet2DConditionModel, dtype, **UNET, **classes),
        "scheduler": DDIMScheduler(**BETAS, prediction_type="v_prediction", clip_sample=False, steps_offset=1),
        "vae": vae(dtype),
    }


@recipe("StableUnCLIPImg2ImgPipeline")
def stable_unclip_of_an_image(dtype: torch.dtype) -> Trial:
    config = CLIPVisionConfig(**ENCODER, image_size=8, patch_size=4)
    pipe = StableUnCLIPImg2ImgPipeline(
        feature_extractor=None,
        image_encoder=random(CLIPVisionModelWithProjection, dtype, config=config),
        **components(dtype),
    )
    call = {
        "prompt_embeds": normal(BATCH, 7, 32, dtype=dtype),
        "negative_prompt_embeds": normal(BATCH, 7, 32, dtype=dtype, seed=2),
        "image": normal(BATCH, 3, 8, 8, seed=4),
        "noise_level": 10,
    }
    return Trial(pipe, (BATCH, 4, 8, 8), call, GUIDED, UNGUIDED, denoiser="unet", call_latents=seeded)


@recipe("StableUnCLIPPipeline")
def stable_unclip(dtype: torch.dtype) -> Trial:
    words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, "[EOS]": 2, "cat": 3, "dog": 4}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", model_max_length=7)
    config = CLIPTextConfig(**ENCODER, vocab_size=5, max_position_embeddings=7, pad_token_id=1, eos_token_id=2)
    prior = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1, "num_embeddings": 7}
    parts = {
        **components(dtype),
        "prior_tokenizer": tokenizer,
        "prior_text_encoder": random(CLIPTextModelWithProjection, dtype, config=config),
        "prior": random(PriorTransformer, dtype, **prior, embedding_dim=32),
        "prior_scheduler": DDPMScheduler(prediction_type="sample", beta_schedule="squaredcos_cap_v2"),
        "tokenizer": tokenizer,
        "text_encoder": random(CLIPTextModel, dtype, config=config),
    }
    call = {"prompt": ["cat", "dog"], "prior_num_inference_steps": 2}
    pipe = StableUnCLIPPipeline(**parts)
    return Trial(pipe, (BATCH, 4, 8, 8), call, GUIDED, UNGUIDED, denoiser="unet", call_latents=seeded)
