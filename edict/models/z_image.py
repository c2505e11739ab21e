"""Pipelines that guide by prediction + scale * (prediction - unconditional prediction), where 0 means no guidance."""

from collections.abc import Sequence
from typing import Any, ClassVar

from edict.models.flux2 import chat_tokens
from edict.models.packed import PackedPipeline
from edict.models.pipeline import PipelineModel


class FromZero(PipelineModel):
    """A pipeline with a call that takes the guidance scale minus 1. In `EDICT`, 1 means no guidance for every model."""

    def arguments(
        self, captions: Sequence[str], guidance_scale: float, negative_captions: Sequence[str | None] | None
    ) -> dict[str, Any]:
        return super().arguments(captions, guidance_scale - 1, negative_captions)


class ZImage(FromZero):
    """Z-Image: its text encoder is Qwen3."""

    pipelines: ClassVar[tuple[str, ...]] = ("ZImageControlNetPipeline", "ZImagePipeline")

    def num_tokens(self, tokenizer: Any, caption: str) -> int:
        return chat_tokens(tokenizer, caption, enable_thinking=True)


class Krea2(FromZero, PackedPipeline):
    """Krea 2: latents are tokens."""

    pipelines: ClassVar[tuple[str, ...]] = ("Krea2Pipeline",)
