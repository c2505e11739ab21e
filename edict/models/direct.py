"""The base class of models whose network is called directly, without a pipeline of diffusers."""

from abc import abstractmethod
from collections.abc import Collection, Container, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch

from edict import lora
from edict.checkpoint import DEFAULT, Checkpoint
from edict.errors import ModelError
from edict.guidance import guided_predictor
from edict.integration import Integration, Predict, solve
from edict.model_files import read_config, read_index
from edict.models.base import VAE_DTYPES, LoadOptions, Model, decoded, encoded
from edict.models.components import (
    Class,
    build_network,
    check_class,
    check_tokens,
    check_weights,
    expand_placeholders,
    is_absent,
    load_network,
    load_tokenizer,
    placeholders,
)

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer

Conditions = Mapping[str, torch.Tensor]
"""The arguments of a network other than latents and timestep, by name: [N, ...] each, one row per sample."""


class DirectModel(Model):
    """A checkpoint of one kind, whose network `predict` calls.

    Only these models have attention control and guidance intervals.
    """

    component_classes: ClassVar[Mapping[str, Class]]
    """The class of each component, by its name in model_index.json."""
    optional_components: ClassVar[frozenset[str]] = frozenset()
    """The components that a checkpoint may lack."""
    latent_patch: ClassVar[int] = 1
    """The side of the square of latents that is one position of the network's input."""
    vae: "AutoencoderKL"
    tokenizer: "CLIPTokenizer"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scheduler_config = read_config(folder, "scheduler")
        self.size = self._size()
        self._empty: Conditions | None = None

    def load(self, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        self.check(checkpoint)
        for component in self.component_classes:
            setattr(self, component, self._tokenizers.get(component))
        for component, kind in self._networks.items():
            precision = VAE_DTYPES[options.vae_dtype] if component == "vae" else options.dtype
            setattr(self, component, load_network(self.folder, component, kind, precision, checkpoint.variant))
        if checkpoint.lora is not None:
            lora.fuse(checkpoint.lora, read_index(self.folder)["_class_name"], self.components)
        self.prepare(options)
        return self

    def check_scheduler(self, supported: Collection[str], advice: str) -> None:
        """Check that the scheduler's class has the noise levels that this model computes.

        Raises:
            ModelError: Its class is not one of `supported`. `advice` ends the message.
        """
        named = {
            "scheduler/scheduler_config.json": self.scheduler_config.get("_class_name"),
            "model_index.json": (read_index(self.folder).get("scheduler") or [None])[-1],
        }
        for file, name in named.items():
            if name is not None and name not in supported:
                raise ModelError(
                    f"model {self.folder}: the scheduler is {name} ({file}), which a {type(self).__name__} cannot use. "
                    f"{advice}"
                )

    def check(self, checkpoint: Checkpoint) -> None:
        """Check that every component is present, complete, of a supported class, and fits the others.

        Only the names and shapes of the weights are read. The shipped model is checked only with a LoRA.

        Raises:
            ModelError: A component does not pass.
        """
        if self.folder == DEFAULT and checkpoint.lora is None:
            return
        for component, kind in self._present.items():
            check_class(self.folder, component, kind)
        networks = dict[str, Any]()
        for component, kind in self._networks.items():
            networks[component] = build_network(self.folder, component, kind)
            check_weights(self.folder, component, kind, networks[component], checkpoint.variant)
        configs = {component: network.config for component, network in networks.items()}
        for component, tokenizer in self._tokenizers.items():
            if (encoder := configs.get(component.replace("tokenizer", "text_encoder"))) is not None:
                check_tokens(self.folder, component, tokenizer, encoder)
        self._check_fit(configs)
        if checkpoint.lora is not None:
            lora.check(checkpoint.lora, read_index(self.folder)["_class_name"], networks)

    def _check_fit(self, configs: Mapping[str, Any]) -> None:
        """Check that the components fit each other, by the configuration of each.

        Raises:
            ModelError: Two components do not fit.
        """
        denoiser, latents = configs[self.denoiser], configs["vae"].latent_channels * self.latent_patch**2
        if denoiser.in_channels != latents:
            raise ModelError(
                f"model {self.folder}: {self.denoiser} takes {denoiser.in_channels} channels, but latents have "
                f"{latents}: networks for inpainting, depth or instructions are not supported. Use the text-to-image "
                "checkpoint"
            )

    def _check_equal(self, setting: str, found: object, expected: object, of: str) -> None:
        """Check that a setting of one component has the value that another component needs.

        Raises:
            ModelError: It has another value.
        """
        if found != expected:
            raise ModelError(
                f"model {self.folder}: {setting} is {found}, expected {expected} from {of}. Use components of one model"
            )

    def interpretation(self) -> dict[str, Any]:
        if self.folder == DEFAULT:
            return {}
        found = {component: placeholders(tokenizer) for component, tokenizer in self._tokenizers.items()}
        return {"placeholders": found} if any(found.values()) else {}

    @cached_property
    def _present(self) -> dict[str, Class]:
        """The classes of the components that the checkpoint has."""
        return {
            component: kind
            for component, kind in self.component_classes.items()
            if component not in self.optional_components or not is_absent(self.folder, component)
        }

    @property
    def _networks(self) -> dict[str, Class]:
        return {component: kind for component, kind in self._present.items() if not component.startswith("tokenizer")}

    @cached_property
    def _tokenizers(self) -> dict[str, Any]:
        return {
            component: load_tokenizer(self.folder, component, kind)
            for component, kind in self._present.items()
            if component.startswith("tokenizer")
        }

    @property
    def components(self) -> dict[str, torch.nn.Module]:
        return {component: network for component in self._networks if (network := getattr(self, component)) is not None}

    @property
    def latent_side(self) -> int:
        """The height and the width of the latents."""
        return self.size // self._factor()

    @abstractmethod
    def _size(self) -> int:
        """Return the side of the model's images in pixels, from the configurations."""

    @abstractmethod
    def condition(self, captions: Sequence[str]) -> Conditions:
        """Return the conditions of N captions."""

    def unconditional(self) -> Conditions:
        """Return the conditions that guidance leads away from if there is no negative caption: [1, ...] each."""
        return self.condition([""])

    @abstractmethod
    def predict(self, latents: torch.Tensor, timestep: float, conditions: Conditions) -> torch.Tensor:
        """Return the noise in latents, or the velocity of a flow, float32 or float64.

        `latents` are float64 [N, C, H, W] in the model's scale. Their layout in memory does not change the result.
        """

    def solve(
        self,
        integration: Integration,
        captions: Sequence[str],
        guidance_scale: float,
        negative_captions: Sequence[str | None] | None = None,
    ) -> Integration:
        timesteps_without_cfg = integration.pair.timesteps_without_cfg
        solve(integration, self.predictor(captions, guidance_scale, negative_captions, timesteps_without_cfg))
        return integration

    def predictor(
        self,
        captions: Sequence[str],
        guidance_scale: float,
        negative_captions: Sequence[str | None] | None = None,
        timesteps_without_cfg: Container[float] = (),
    ) -> Predict:
        """Return the guided prediction under these captions, one per sample of the batch.

        Guidance does not apply at `timesteps_without_cfg`.

        Raises:
            ValueError: A negative caption has no effect on this model.
        """
        empty = self.negative_conditions(negative_captions or ())
        return guided_predictor(self, self.condition(captions), empty, guidance_scale, timesteps_without_cfg)

    def negative_conditions(self, negative_captions: Sequence[str | None]) -> Conditions:
        """Return the conditions that guidance leads away from: [N, ...] each, or [1, ...] if there is no caption.

        The empty caption is always encoded in a batch of one, because a larger batch could change its last bits.

        Raises:
            ValueError: The model has no classifier-free guidance.
        """
        if self._empty is None:
            self._empty = self.unconditional()
        none = torch.tensor([caption is None for caption in negative_captions], device=self.device)
        if none.all():
            return self._empty
        if self.guidance != "cfg":
            raise ValueError(
                f"negative_captions: the model {self.folder} has no classifier-free guidance, so a negative caption "
                "has no effect. Leave it out"
            )
        conditions = self.condition([caption or "" for caption in negative_captions])
        return {
            name: torch.where(none.view(-1, *[1] * (rows.ndim - 1)), self._empty[name], rows)
            for name, rows in conditions.items()
        }

    def encode(self, pixels: torch.Tensor, posterior_seed: int | None) -> torch.Tensor:
        return self._scaled(encoded(self.vae, pixels, self.vae_dtype, posterior_seed))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return decoded(self.vae, self._unscaled(latents), self.vae_dtype)

    def _scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the autoencoder's latents in the model's scale."""
        scaled: torch.Tensor = (latents - (self.vae.config.shift_factor or 0)) * self.vae.config.scaling_factor
        return scaled

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Undo `_scaled`."""
        unscaled: torch.Tensor = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0)
        return unscaled

    def _factor(self) -> int:
        """Return the ratio of the side of an image to the side of its latents."""
        return int(2 ** (len(read_config(self.folder, "vae").get("block_out_channels", [64])) - 1))


def exceeds_length(tokenizer: Any, caption: str, length: int) -> bool:
    """Return whether a tokenizer makes more than `length` tokens of a caption."""
    return len(tokenizer(expand_placeholders(tokenizer, [caption])[0]).input_ids) > length


def timesteps_of(timestep: float, latents: torch.Tensor) -> torch.Tensor:
    """Return the timestep as float32 [N], one per row of `latents`, on their device.

    A Python number would be copied to the device, and the call would wait for the copy. A compiled network takes a
    number for a constant, and would be compiled again at every step.
    """
    return torch.full((len(latents),), timestep, dtype=torch.float32, device=latents.device)


def tokens_of(tokenizer: Any, captions: Sequence[str], length: int, device: torch.device) -> torch.Tensor:
    """Return the tokens of captions, int64 [N, length], truncated or padded to one length."""
    kwargs = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
    tokens: torch.Tensor = tokenizer(expand_placeholders(tokenizer, captions), **kwargs).input_ids.to(device)
    return tokens
