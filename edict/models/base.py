"""The interface of a model of any kind, as `EDICT` uses it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch

from edict.checkpoint import Checkpoint
from edict.compilation import compile_network
from edict.determinism import tf32
from edict.errors import ModelError
from edict.integration import Integration
from edict.schedule import Schedule
from schemas.sampling import Sampling

VaeDtype = Literal["float32", "tf32", "bfloat16"]
VAE_DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
Guidance = Literal["cfg", "embedded", "none", "pipeline"]
"""The kind of guidance.

cfg: classifier-free, from two branches. embedded: the network takes the scale as an input. none: there is no guidance.
pipeline: the pipeline's call applies its own guidance.
"""


@dataclass(frozen=True)
class LoadOptions:
    """The options of loading a checkpoint, as in `EDICT.from_pretrained`.

    `quantization` is one of edict.models.loading.QUANTIZATIONS.
    """

    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    quantization: str | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    compile: bool = False
    channels_last: bool = False
    vae_dtype: VaeDtype = "float32"


class Model(ABC):
    """A model of one kind. Before `load`, only its configurations are read.

    The network runs in the dtype that it was loaded in. The autoencoder runs in `vae_dtype`, on one image at a time.
    float16 is not a `vae_dtype`, because SDXL's autoencoder overflows in it.
    """

    folder: Path
    """The checkpoint's folder."""
    size: int
    """The side of its images in pixels."""
    denoiser: ClassVar[str] = "unet"
    """The name of the component that predicts."""
    guidance: Guidance = "cfg"
    supports_batches: bool = True
    """True if a sample's bits do not depend on the other captions of its batch. If not, every batch has one sample."""
    compiled: bool = False
    """True if the network that predicts is compiled, which changes the last bits."""
    vae_dtype: VaeDtype = "float32"
    """tf32 means float32 with the inputs of products rounded to TF32, on GPUs."""

    @abstractmethod
    def load(self, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Load the components of a checkpoint from safetensors.

        Raises:
            ModelError: A component is missing, incomplete or not supported. diffusers and transformers can raise other
                errors.
        """

    def prepare(self, options: LoadOptions) -> None:
        """Prepare the loaded networks: eval mode, device, memory layout and compilation.

        Raises:
            ModelError: `channels_last` is set for a network for videos, or no network can be compiled.
        """
        for network in self.components.values():
            network.requires_grad_(False).eval().to(options.device)
        self.vae_dtype = options.vae_dtype
        vae: Any = self.components.get("vae")
        if options.channels_last:
            for network in {self.network, vae} - {None}:
                if any(weight.ndim == 5 for weight in network.parameters()):
                    raise ModelError(
                        f"channels_last: the model {self.folder} has a network for videos, which cannot have this "
                        "layout. Set it to false"
                    )
                network.to(memory_format=torch.channels_last)
        if hasattr(vae, "enable_slicing"):
            # A batch would change the last bits of an image, and one image of 1024 pixels takes gigabytes.
            vae.enable_slicing()
        if options.compile:
            compile_network(self.network)
        self.compiled = options.compile

    @abstractmethod
    def check(self, checkpoint: Checkpoint) -> None:
        """Check that every component is present, complete and of a supported class.

        Raises:
            ModelError: A component does not pass.
        """

    def interpretation(self) -> dict[str, Any]:
        """Return the settings that change the meaning of a pair and that earlier versions ignored, often none."""
        return {}

    @property
    def planned_size(self) -> int | None:
        """The side of its images in pixels; None if only the loaded model knows it."""
        return self.size

    @property
    def has_negative(self) -> bool:
        """True if guidance can lead away from a negative caption."""
        return self.guidance == "cfg"

    @property
    @abstractmethod
    def components(self) -> dict[str, torch.nn.Module]:
        """The loaded networks, by their names in model_index.json."""

    @property
    def network(self) -> Any:
        """The network that predicts."""
        return self.components[self.denoiser]

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        device: torch.device = next(self.network.parameters()).device
        return device

    @property
    def controllable(self) -> bool:
        """True if attention control is possible: the network has layers that attend only to CLIP's tokens."""
        return bool(self.attention_sides)

    @property
    def attention_sides(self) -> list[int]:
        """The sides of the attention maps to CLIP's tokens, in positions, the largest first."""
        return []

    @abstractmethod
    def schedule(self, sampling: Sampling) -> Schedule:
        """Return the executed steps of the checkpoint's own schedule, the last `sampling.executed_steps` of it.

        Raises:
            ValueError: The schedule cannot have this number of steps, or has no `steps_offset`.
        """

    def planned_schedule(self, sampling: Sampling) -> Schedule | None:
        """Return `schedule`, or None if only the loaded model knows it."""
        return self.schedule(sampling)

    @abstractmethod
    def clean_end(self) -> Schedule:
        """Return the clean end of every schedule of this model: a schedule without steps."""

    @abstractmethod
    def solve(
        self,
        integration: Integration,
        captions: Sequence[str],
        guidance_scale: float,
        negative_captions: Sequence[str | None] | None = None,
    ) -> Integration:
        """Run an integration to its end, with each sample under its caption. Return it.

        Guidance leads away from a sample's negative caption. Without one, it leads away from the default of the model's
        pipeline, which is usually the empty caption.

        Raises:
            ValueError: The pair does not fit the model, or a negative caption has no effect on it.
        """

    @abstractmethod
    def truncated(self, caption: str) -> bool:
        """Return whether the text encoder with the longest limit truncates this caption."""

    @abstractmethod
    def encode(self, pixels: torch.Tensor, posterior_seed: int | None) -> torch.Tensor:
        """Return the latents, float32 [N, ...], of images, float32 [N, 3, S, S] on [-1, 1].

        The latents have the model's layout and scale. They are the mode of the autoencoder's posterior, or, with
        `posterior_seed`, a sample of it, with a new generator of that seed for each image.

        Raises:
            ValueError: There is a `posterior_seed`, but no autoencoder.
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


def decoded(vae: Any, latents: torch.Tensor, vae_dtype: VaeDtype, **kwargs: Any) -> torch.Tensor:
    """Return the images or videos, float32, of an autoencoder's own latents. `kwargs` are arguments of its `decode`."""
    with tf32(vae_dtype == "tf32"):
        images: torch.Tensor = vae.decode(latents.to(vae.dtype), **kwargs).sample
    return images.float()
