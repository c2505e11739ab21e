"""Pipelines with latents as tokens, each of one position or of 2x2 positions, as in FLUX.1."""

import math
from typing import ClassVar

import torch

from edict.models.pipeline import PipelineModel


class TokenPipeline(PipelineModel):
    """Pipelines with latents [N, H * W, C]."""

    pipelines: ClassVar[tuple[str, ...]] = ("BriaFiboPipeline",)

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        found = self.normalized(latents)
        return tokens(found[:, :, 0] if self.has_video_vae else found)

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        found = from_tokens(latents)
        return self.denormalized(found[:, :, None] if self.has_video_vae else found)


class PackedPipeline(TokenPipeline):
    """Pipelines with latents [N, H/2 * W/2, 4 C]. A token has the 2x2 positions of the first channel, then the next."""

    pipelines: ClassVar[tuple[str, ...]] = (
        "BriaPipeline",
        "ChromaPipeline",
        "FluxControlNetPipeline",
        "FluxControlPipeline",
        "FluxPipeline",
        "LongCatImagePipeline",
        "NucleusMoEImagePipeline",
        "OvisImagePipeline",
    )

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        found = self.normalized(latents)
        return tokens(patches(found[:, :, 0] if self.has_video_vae else found))

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        found = from_patches(from_tokens(latents))
        return self.denormalized(found[:, :, None] if self.has_video_vae else found)


def patches(latents: torch.Tensor) -> torch.Tensor:
    """Return latents [N, C, H, W] as [N, 4 C, H/2, W/2]."""
    return torch.nn.functional.pixel_unshuffle(latents, 2)


def from_patches(latents: torch.Tensor) -> torch.Tensor:
    """Undo `patches`."""
    return torch.nn.functional.pixel_shuffle(latents, 2)


def tokens(latents: torch.Tensor) -> torch.Tensor:
    """Return latents [N, C, H, W] as [N, H * W, C]."""
    return latents.flatten(2).transpose(1, 2).contiguous()


def from_tokens(latents: torch.Tensor) -> torch.Tensor:
    """Return the tokens of a square, [N, L, C], as latents [N, C, sqrt(L), sqrt(L)]: undo `tokens`."""
    side = math.isqrt(latents.shape[1])
    grid: torch.Tensor = latents.transpose(1, 2).unflatten(2, (side, side))
    return grid
