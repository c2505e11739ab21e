"""What `EDICT` needs of a model of any kind."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch

from edict.checkpoint import Checkpoint, ModelError
from edict.compilation import compile_network
from edict.determinism import tf32
from edict.integration import Integration
from edict.schedule import Schedule
from schemas.sampling import Sampling

VaeDtype = Literal["float32", "tf32", "bfloat16"]
VAE_DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
Guidance = Literal["free", "embedded", "none", "pipeline"]
"""free: classifier-free, from two branches. embedded: the network takes the scale itself. none: there is none.
pipeline: the pipeline's call guides, in its own way."""


@dataclass(frozen=True)
class LoadOptions:
    """How a checkpoint is loaded.

    `quantization` is one of edict.models.pipeline.QUANTIZATIONS, for the network that predicts; `call` are further
    arguments of the pipeline's call.
    """

    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    quantization: str | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    compile: bool = False
    channels_last: bool = False
    vae_dtype: VaeDtype = "float32"


class Model(ABC):
    """A model of one kind. Described, it knows its configurations; loaded, it encodes, solves and decodes.

    `size` is the side of its images in pixels. The network runs in the dtype it was loaded in, the autoencoder in
    `vae_dtype` on one image at a time. SDXL's autoencoder overflows in float16, so `vae_dtype` excludes it.
    """

    folder: Path
    """The checkpoint's folder."""
    size: int
    denoiser: ClassVar[str] = "unet"
    """The component that predicts."""
    guidance: Guidance = "free"
    batched: bool = True
    """Whether a sample's bits are the same whatever captions share its batch. If not, each sample runs alone."""
    compiled: bool = False
    """Whether the network that predicts is compiled, which gives it other last bits."""
    vae_dtype: VaeDtype = "float32"
    """tf32 is float32 with the inputs of products rounded to TF32, on GPUs."""

    @abstractmethod
    def load(self, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Load its components, from safetensors. Raises ModelError, and what diffusers and transformers raise."""

    def prepare(self, options: LoadOptions) -> None:
        """Prepare the loaded networks: eval mode, the device, memory layout, and compilation."""
        for network in self.components.values():
            network.requires_grad_(False).eval().to(options.device)
        self.vae_dtype = options.vae_dtype
        vae: Any = self.components.get("vae")
        if options.channels_last:
            for network in {self.network, vae} - {None}:
                if any(weight.ndim == 5 for weight in network.parameters()):
                    raise ModelError("channels_last: a network of videos cannot have it. Set it to false")
                network.to(memory_format=torch.channels_last)
        if hasattr(vae, "enable_slicing"):
            # In a batch an image would have other last bits, and one of 1024 pixels takes gigabytes.
            vae.enable_slicing()
        if options.compile:
            compile_network(self.network)
        self.compiled = options.compile

    @abstractmethod
    def check(self, checkpoint: Checkpoint) -> None:
        """Check that every component is present, complete and of a supported class. Raises ModelError."""

    def interpretation(self) -> dict[str, Any]:
        """Return the settings that change the meaning of a pair and that earlier versions ignored; often {}."""
        return {}

    @property
    def planned_size(self) -> int | None:
        """The side of its images, None if only the loaded model knows it."""
        return self.size

    @property
    def has_negative(self) -> bool:
        """Whether guidance can lead away from a negative caption."""
        return self.guidance == "free"

    @property
    @abstractmethod
    def components(self) -> dict[str, torch.nn.Module]:
        """The loaded networks by their names in model_index.json."""

    @property
    def network(self) -> Any:
        """The network that predicts."""
        return self.components[self.denoiser]

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def controllable(self) -> bool:
        """Whether prompt-to-prompt can control its edits: it attends to CLIP's tokens in layers of their own."""
        return bool(self.attention_sides)

    @property
    def attention_sides(self) -> list[int]:
        """The sides of the squares of latents at which the network attends to CLIP's tokens, the finest first."""
        return []

    @abstractmethod
    def schedule(self, sampling: Sampling) -> Schedule:
        """Return the executed steps of the checkpoint's own schedule, the last `sampling.executed_steps` of it.

        Raises ValueError if the schedule has no such number of steps, or takes no `steps_offset`.
        """

    def planned_schedule(self, sampling: Sampling) -> Schedule | None:
        """Return `schedule`, or None if only the loaded model knows it."""
        return self.schedule(sampling)

    @abstractmethod
    def clean(self) -> Schedule:
        """Return the clean end: a schedule of no steps."""

    @abstractmethod
    def solve(
        self,
        integration: Integration,
        captions: Sequence[str],
        guidance_scale: float,
        negative_captions: Sequence[str | None] | None = None,
    ) -> Integration:
        """Return the integration at its end, each sample under its caption.

        Guidance leads away from a sample's negative caption. If there is none, it leads away from what the model's
        pipeline leads away from, which is mostly the empty caption.
        """

    @abstractmethod
    def truncated(self, caption: str) -> bool:
        """Return whether the text encoder that sees most of a caption sees only its beginning."""

    @abstractmethod
    def encode(self, pixels: torch.Tensor, posterior_seed: int | None) -> torch.Tensor:
        """Return the latents, float32 [N, ...] in the model's layout and scale, of images, float32 [N, 3, S, S].

        The images are on [-1, 1]. The latents are the mode of the autoencoder's posterior, or a sample of it, each
        image's with a generator of that seed.
        """

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the images, float32 [N, 3, S, S] on about [-1, 1], of latents, float32 [N, ...]."""


def encoded(vae: Any, pixels: torch.Tensor, vae_dtype: VaeDtype, posterior_seed: int | None) -> torch.Tensor:
    """Return an autoencoder's own latents of images or videos on [-1, 1], float32: the mode of its posterior.

    With a seed they are a sample of the posterior. An autoencoder without a posterior (DC-AE, VQ-GAN) has one answer.
    """
    with tf32(vae_dtype == "tf32"):
        found = vae.encode(pixels.to(vae.dtype))
    if not hasattr(found, "latent_dist"):
        latents: torch.Tensor = found.latents if hasattr(found, "latents") else found.latent
        return latents.float()
    latents = found.latent_dist.mode().float()
    if posterior_seed is not None:
        generator = torch.Generator().manual_seed(posterior_seed)
        noise = torch.randn(latents.shape[1:], generator=generator).to(latents.device)
        latents = latents + found.latent_dist.std.float() * noise
    return latents


def decoded(vae: Any, latents: torch.Tensor, vae_dtype: VaeDtype, **given: Any) -> torch.Tensor:
    """Return the images or videos, float32, of an autoencoder's own latents. `given` are arguments of its `decode`."""
    with tf32(vae_dtype == "tf32"):
        images: torch.Tensor = vae.decode(latents.to(vae.dtype), **given).sample
    return images.float()
