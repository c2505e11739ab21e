"""Qwen-Image (Wu et al., 2508.02324): guidance by `true_cfg_scale`, which needs a negative prompt."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from edict.models.packed import PackedPipeline, TokenPipeline
from edict.models.pipeline import PipelineModel


class TrueCFG(PipelineModel):
    """A pipeline whose guidance leads away from the empty caption if there is no negative caption."""

    @property
    def has_negative(self) -> bool:
        return True

    def arguments(
        self, captions: Sequence[str], guidance_scale: float, negative_captions: Sequence[str | None] | None
    ) -> dict[str, Any]:
        arguments = {"prompt": list(captions), "true_cfg_scale": guidance_scale}
        if guidance_scale > 1:
            arguments["negative_prompt"] = [caption or "" for caption in negative_captions or [None] * len(captions)]
        return arguments


class QwenImage(TrueCFG, PackedPipeline):
    """Qwen-Image: the limit of a caption excludes the tokens of the pipeline's prompt template."""

    pipelines: ClassVar[tuple[str, ...]] = ("QwenImageControlNetPipeline", "QwenImagePipeline")

    def num_tokens(self, tokenizer: Any, caption: str) -> int:
        template, dropped = self.pipe.prompt_template_encode, self.pipe.prompt_template_encode_start_idx
        return len(tokenizer(template.format(caption)).input_ids) - int(dropped)


class QwenImage21(TrueCFG, TokenPipeline):
    """Qwen-Image 2.1. Its images have an alpha channel, which is opaque here.

    The pipeline's cache of keys and values is not used, because the first call would fill it and the others read it.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("QwenImage21Pipeline",)

    @property
    def has_video_vae(self) -> bool:
        # Its latents have an axis of frames, although its kernels are those of images.
        return True

    def encode(self, pixels: torch.Tensor, posterior_seed: int | None) -> torch.Tensor:
        return super().encode(torch.cat([pixels, torch.ones_like(pixels[:, :1])], 1), posterior_seed)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return super().decode(latents)[:, :3]

    def arguments(
        self, captions: Sequence[str], guidance_scale: float, negative_captions: Sequence[str | None] | None
    ) -> dict[str, Any]:
        return super().arguments(captions, guidance_scale, negative_captions) | {"use_kv_cache": False}
