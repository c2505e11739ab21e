"""Diffusion on pixels (DDPM, Ho et al., 2006.11239): an unconditional UNet. The latents are the image on [-1, 1].

There is no text and no guidance: captions are ignored.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from edict.errors import ModelError
from edict.model_files import read_config, sample_size
from edict.models.base import Guidance
from edict.models.direct import Conditions, timesteps_of
from edict.models.noise import NoiseModel

if TYPE_CHECKING:
    from diffusers import UNet2DModel


class Pixels(NoiseModel):
    """A model on pixels, without conditions.

    A network that also predicts a variance (2102.09672) has 6 channels; only the noise is used.
    """

    component_classes: ClassVar = {"unet": ("diffusers", "UNet2DModel")}
    guidance: Guidance = "none"
    unet: "UNet2DModel"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        if (channels := read_config(folder, "unet").get("in_channels", 3)) != 3:
            raise ModelError(
                f"model {folder} takes {channels} channels, and only 3 (red, green, blue) are supported. Use another "
                "checkpoint"
            )

    def _size(self) -> int:
        return sample_size(self.folder, "unet")

    def _check_fit(self, configs: Mapping[str, Any]) -> None:
        unet = configs["unet"]
        if unet.class_embed_type is not None or unet.num_class_embeds is not None:
            raise ModelError(
                f"model {self.folder}: unet takes a class, which is not supported. Use a checkpoint without classes"
            )

    def condition(self, captions: Sequence[str]) -> Conditions:
        return {}

    def predict(self, latents: torch.Tensor, timestep: float, conditions: Conditions) -> torch.Tensor:
        model_input = latents.to(self.unet.dtype).contiguous()
        predicted = self.unet(model_input, timesteps_of(timestep, model_input)).sample
        return self.noise(predicted[:, : latents.shape[1]], latents, timestep)

    def truncated(self, caption: str) -> bool:
        return False

    def encode(self, pixels: torch.Tensor, posterior_seed: int | None) -> torch.Tensor:
        if posterior_seed is not None:
            raise ValueError(
                "posterior_seed: a model on pixels has no autoencoder, so it has no posterior. Leave it out"
            )
        return pixels

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents
