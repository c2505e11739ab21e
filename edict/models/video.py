"""Video pipelines with latents in other layouts than the autoencoder's [N, C, F, H, W]. A video has one frame."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from edict.models.base import decoded
from edict.models.packed import TokenPipeline
from edict.models.pipeline import PipelineModel


class FramePipeline(PipelineModel):
    """AnimateDiff (Guo et al., 2307.04725) and Latte: latents are [N, C, F, H, W], and the autoencoder is of images."""

    pipelines: ClassVar[tuple[str, ...]] = (
        "AnimateDiffControlNetPipeline",
        "AnimateDiffPAGPipeline",
        "AnimateDiffPipeline",
        "AnimateDiffSDXLPipeline",
        "AnimateDiffSparseControlNetPipeline",
        "LattePipeline",
    )

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        return self.normalized(latents)[:, :, None]

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        return self.denormalized(latents[:, :, 0])


class TextToVideo(PipelineModel):
    """ModelScope's text to video: latents are one sample [C, H, W] per frame. The call takes [N, C, F, H, W]."""

    pipelines: ClassVar[tuple[str, ...]] = ("TextToVideoSDPipeline",)

    def call_latents(self, latents: torch.Tensor) -> torch.Tensor:
        return latents[:, :, None]


class CogVideoX(PipelineModel):
    """CogVideoX: latents are [N, F, C, H, W]. In version 1.5, copies of the first frame fill a patch of frames."""

    pipelines: ClassVar[tuple[str, ...]] = ("CogVideoXFunControlPipeline", "CogVideoXPipeline")

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        return self.normalized(latents).transpose(1, 2).repeat(1, self.network.config.patch_size_t or 1, 1, 1, 1)

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        return self.denormalized(latents[:, -1:].transpose(1, 2))


class LTX(TokenPipeline):
    """LTX-Video (HaCohen et al., 2501.00103): latents are tokens.

    Some autoencoders also denoise; they get timestep 0, for clean latents.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("LTXPipeline",)

    def vae_decode(self, latents: torch.Tensor) -> torch.Tensor:
        conditioned = self.vae.config.timestep_conditioning
        timestep = torch.zeros(len(latents), device=latents.device, dtype=self.vae.dtype) if conditioned else None
        return decoded(self.vae, latents, self.vae_dtype, temb=timestep)


class Kandinsky5(PipelineModel):
    """Kandinsky 5: latents are [N, F, H, W, C]. Visual conditions, if the network has them, are zeros."""

    pipelines: ClassVar[tuple[str, ...]] = ("Kandinsky5T2IPipeline", "Kandinsky5T2VPipeline")

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        found = self.normalized(latents)
        return (found if self.has_video_vae else found[:, :, None]).movedim(1, -1)

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        found = latents.movedim(-1, 1)
        return self.denormalized(found if self.has_video_vae else found[:, :, 0])

    def call_latents(self, latents: torch.Tensor) -> torch.Tensor:
        if not getattr(self.network, "visual_cond", False):
            return latents
        return torch.cat([latents, torch.zeros_like(latents), torch.zeros_like(latents[..., :1])], -1)


class Kandinsky6(Kandinsky5):
    """Kandinsky 6: the call takes latents as [N, C, F, H, W] and moves the channels. No sound is made."""

    pipelines: ClassVar[tuple[str, ...]] = ("Kandinsky6TI2VAPipeline",)

    def call_latents(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.movedim(-1, 1)

    def arguments(
        self, captions: Sequence[str], guidance_scale: float, negative_captions: Sequence[str | None] | None
    ) -> dict[str, Any]:
        return super().arguments(captions, guidance_scale, negative_captions) | {"sample_audio": False}


class Cosmos3(PipelineModel):
    """Cosmos 3: latents are [N, 1, C, F, H, W]. The call takes [1, C, F, H, W] and one prompt."""

    pipelines: ClassVar[tuple[str, ...]] = ("Cosmos3OmniPipeline",)

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        return self.normalized(latents)[:, None]

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        return self.denormalized(latents[:, 0])

    def call_latents(self, latents: torch.Tensor) -> torch.Tensor:
        return latents[0]

    def arguments(
        self, captions: Sequence[str], guidance_scale: float, negative_captions: Sequence[str | None] | None
    ) -> dict[str, Any]:
        arguments = super().arguments(captions, guidance_scale, negative_captions)
        return {name: value[0] if isinstance(value, list) else value for name, value in arguments.items()}
