"""Pipelines that do not use the `scaling_factor` of their autoencoder, or that have no autoencoder."""

from typing import ClassVar

import torch

from edict.models.base import decoded
from edict.models.pipeline import PipelineModel


class Unscaled(PipelineModel):
    """Pipelines with latents (z - mean) / std."""

    pipelines: ClassVar[tuple[str, ...]] = ("GlmImagePipeline", "SanaVideoPipeline")

    def scaling_factor(self) -> float:
        return 1.0


class Kandinsky3(Unscaled):
    """Kandinsky 3: the autoencoder is a VQ-GAN, `movq`, and the latents are not quantized."""

    pipelines: ClassVar[tuple[str, ...]] = ("Kandinsky3Pipeline",)

    @property
    def vae(self) -> torch.nn.Module:
        vae: torch.nn.Module = self.pipe.movq
        return vae

    def vae_decode(self, latents: torch.Tensor) -> torch.Tensor:
        return decoded(self.vae, latents, self.vae_dtype, force_not_quantize=True)


class PixelPipeline(PipelineModel):
    """Pipelines with images on [-1, 1] as latents."""

    pipelines: ClassVar[tuple[str, ...]] = ("PRXPixelPipeline",)

    def encode(self, pixels: torch.Tensor, posterior_seed: int | None) -> torch.Tensor:
        if posterior_seed is not None:
            raise ValueError(f"posterior_seed: {self.kind.__name__} has no autoencoder. Leave it out")
        return pixels

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents
