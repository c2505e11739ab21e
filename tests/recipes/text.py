"""Text encoders of a few thousand weights, for the pipelines that take no embeddings."""

from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
VOCABULARY = 256 + len(SPECIAL)
PROMPTS = {"prompt": ["a cat", "two dogs"], "negative_prompt": ["blur", "noise"]}


def tokenizer() -> Qwen2Tokenizer:
    """Return a tokenizer with one token per byte."""
    vocabulary = {token: i for i, token in enumerate((*sorted(ByteLevel.alphabet()), *SPECIAL))}
    return Qwen2Tokenizer(vocab=vocabulary, merges=[], additional_special_tokens=list(SPECIAL[1:]))


def text_encoder(kind: Any, config: Any, dtype: torch.dtype) -> Any:
    """Return a text encoder of a class with random weights, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = kind(config)
    return network.eval().requires_grad_(False).to(dtype)
