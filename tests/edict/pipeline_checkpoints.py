"""Small checkpoints of recent pipelines that run from captions: text encoder and tokenizer included.

The networks, the VAEs and the schedulers are those of `tests.recipes`, with random weights.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, Flux2Transformer2DModel
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from transformers import (
    CLIPImageProcessor,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    LlavaProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5EncoderModel,
    UMT5EncoderModel,
)

from tests.edict.checkpoints import t5_encoder, t5_tokenizer
from tests.recipes import chroma, flux2, longcat_image, pixart, qwen_image, sana, text, trial, wan, z_image

DTYPE = torch.float32
FLUX2_WIDTH = 16
"""Hidden size of the text encoders of FLUX.2, which concatenates the hidden states of three layers."""

QWEN3_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking is false -%}
<think>

</think>

{% endif -%}
{%- endif -%}
"""
MISTRAL_TEMPLATE = """\
{%- for message in messages -%}
{%- set tag = "SYSTEM_PROMPT" if message.role == "system" else "INST" -%}
[{{ tag }}]{% for part in message.content %}{{ part.text }}{% endfor %}[/{{ tag }}]
{%- endfor -%}
"""


def bpe_tokenizer(words: str, chat_template: str | None = None) -> Qwen2Tokenizer:
    """Return a byte-level BPE tokenizer that has a token for each of the words, and one for each byte."""
    tokenizer = text.tokenizer().train_new_from_iterator([[words]], vocab_size=1000, show_progress=False)
    tokenizer.chat_template = chat_template
    return tokenizer


def gemma_tokenizer() -> GemmaTokenizer:
    """Return a tokenizer with one token per byte, and one for a space."""
    tokens = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *(f"<0x{byte:02X}>" for byte in range(256)))
    return GemmaTokenizer(vocab={token: i for i, token in enumerate(tokens)})


def decoder(tokenizer: Any, width: int = 32, layers: int = 2) -> dict[str, Any]:
    """Return the configuration of a small language model whose hidden states depend on the whole text."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": width // 2,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 2 * width**-0.5,  # The default, 0.02, is for published widths.
    }


def with_text(pipe: DiffusionPipeline, text_encoder: Any, tokenizer: Any) -> DiffusionPipeline:
    """Complete a pipeline, and scale its weights so that the images of two captions differ in 8 bits, too."""
    pipe.register_modules(text_encoder=text_encoder, tokenizer=tokenizer)
    for network, scale in ((pipe.transformer, 2), (pipe.vae.decoder, 1.5)):
        for weight in network.parameters():
            if weight.ndim > 1:
                weight *= scale
    return pipe


def qwen_image_pipeline() -> DiffusionPipeline:
    """Qwen-Image with 34 tokens before the caption, as many as the pipeline drops."""
    pipe = qwen_image.qwen_image(DTYPE).pipe
    tokenizer = bpe_tokenizer(pipe.prompt_template_encode)
    config = Qwen2_5_VLConfig(text_config=longcat_image.TEXT | decoder(tokenizer), vision_config=longcat_image.VISION)
    return with_text(pipe, text.text_encoder(Qwen2_5_VLForConditionalGeneration, config, DTYPE), tokenizer)


def flux2_transformer(guidance_embeds: bool) -> Flux2Transformer2DModel:
    config = flux2.TRANSFORMER | {"joint_attention_dim": 3 * FLUX2_WIDTH, "guidance_embeds": guidance_embeds}
    return trial.random(Flux2Transformer2DModel, DTYPE, **config)


def flux2_pipeline() -> DiffusionPipeline:
    """FLUX.2 with a LlavaProcessor: the published PixtralProcessor has the same chat method, but needs torchvision."""
    pipe = flux2.flux2(DTYPE).pipe
    tokenizer = bpe_tokenizer(SYSTEM_MESSAGE)
    processor = LlavaProcessor(CLIPImageProcessor(), tokenizer, chat_template=MISTRAL_TEMPLATE)
    config = Mistral3Config(
        text_config={"model_type": "mistral", **decoder(tokenizer, FLUX2_WIDTH, layers=31)},
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 8,
            "image_size": 28,
        },
    )
    pipe.register_modules(transformer=flux2_transformer(guidance_embeds=True))
    return with_text(pipe, text.text_encoder(Mistral3ForConditionalGeneration, config, DTYPE), processor)


def flux2_klein_pipeline() -> DiffusionPipeline:
    pipe = flux2.flux2_klein(DTYPE).pipe
    tokenizer = bpe_tokenizer(QWEN3_TEMPLATE, QWEN3_TEMPLATE)
    config = Qwen3Config(**decoder(tokenizer, FLUX2_WIDTH, layers=28))
    pipe.register_modules(transformer=flux2_transformer(guidance_embeds=False))
    return with_text(pipe, text.text_encoder(Qwen3ForCausalLM, config, DTYPE), tokenizer)


def z_image_pipeline() -> DiffusionPipeline:
    tokenizer = bpe_tokenizer(QWEN3_TEMPLATE, QWEN3_TEMPLATE)
    encoder = text.text_encoder(Qwen3Model, Qwen3Config(**decoder(tokenizer)), DTYPE)
    return with_text(z_image.z_image(DTYPE).pipe, encoder, tokenizer)


def sana_pipeline() -> DiffusionPipeline:
    tokenizer = gemma_tokenizer()
    encoder = text.text_encoder(Gemma2Model, Gemma2Config(**decoder(tokenizer)), DTYPE)
    return with_text(sana.sana(DTYPE).pipe, encoder, tokenizer)


def t5_pipeline(recipe: trial.Recipe, encoder: type = T5EncoderModel) -> DiffusionPipeline:
    network = trial.random(t5_encoder, DTYPE, encoder=encoder)
    # Most tokens are padding, which WanTransformer3DModel does not mask. The caption's tokens need large values.
    network.encoder.final_layer_norm.weight *= 8
    return with_text(recipe(DTYPE).pipe, network, t5_tokenizer())


BUILDERS: dict[str, Callable[[], DiffusionPipeline]] = {
    "qwen-image": qwen_image_pipeline,
    "flux2": flux2_pipeline,
    "flux2-klein": flux2_klein_pipeline,
    "wan": partial(t5_pipeline, wan.wan, UMT5EncoderModel),
    "z-image": z_image_pipeline,
    "sana": sana_pipeline,
    "chroma": partial(t5_pipeline, chroma.chroma),
    "pixart-alpha": partial(t5_pipeline, pixart.pixart_alpha),
}

CALLS: dict[str, dict[str, Any]] = {
    "qwen-image": {"height": 16, "width": 16},
    "flux2": {"height": 16, "width": 16},
    "flux2-klein": {"height": 16, "width": 16},
    "wan": {"height": 16, "width": 16, "num_frames": 5},
    "z-image": {"height": 16, "width": 16},
    "sana": {"height": 32, "width": 32, "use_resolution_binning": False},
    "chroma": {"height": 16, "width": 16},
    "pixart-alpha": {"height": 16, "width": 16, "use_resolution_binning": False},
}
"""Arguments of the call of each pipeline, which make its output small."""


def save(name: str, folder: Path) -> Path:
    """Save the checkpoint of a name in `folder`, and return the folder."""
    BUILDERS[name]().save_pretrained(folder)
    return folder


def load(folder: Path) -> DiffusionPipeline:
    """Load a checkpoint as a user does."""
    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def classes(folder: Path) -> dict[str, Any]:
    """Return the class of each component of a checkpoint."""
    index = DiffusionPipeline.load_config(folder)
    parts = {part: value for part, value in index.items() if isinstance(value, list) and value[1]}
    return {part: getattr(import_module(library), name) for part, (library, name) in parts.items()}
