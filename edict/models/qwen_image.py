"""Qwen-Image (Wu et al., 2508.02324): tokens of 2x2 latents of a video autoencoder; guidance by `true_cfg_scale`."""

from collections.abc import Sequence
from typing import Any

import torch

from edict.models.packed import PackedPipeline


class QwenImage(PackedPipeline):
    """Classifier-free guidance needs a negative prompt: the empty one, if none is given."""

    pipelines = ("QwenImagePipeline",)

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        return super().pack(latents[:, :, 0] if latents.ndim == 5 else latents)

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        return super().unpack(latents)[:, :, None]

    def arguments(
        self, captions: Sequence[str], guidance_scale: float, negative_captions: Sequence[str | None] | None
    ) -> dict[str, Any]:
        negatives = [caption or "" for caption in negative_captions or [None] * len(captions)]
        return {"prompt": list(captions), "true_cfg_scale": guidance_scale, "negative_prompt": negatives}
