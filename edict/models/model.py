"""What a sampler needs of a checkpoint, whatever its kind: the interface, and what most kinds share."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch

from edict import compilation, lora
from edict.checkpoint import DEFAULT, LoRA, ModelError, read_config, read_index
from edict.determinism import tf32
from edict.models.parts import (
    Class,
    build_network,
    check_class,
    check_tokens,
    check_weights,
    expanded,
    is_left_out,
    load_network,
    load_tokenizer,
    placeholders,
)
from edict.schedule import Schedule
from schemas.sampling import Sampling

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer

VaeDtype = Literal["float32", "tf32", "bfloat16"]
VAE_DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}

Conditions = Mapping[str, torch.Tensor]
"""What a network takes beside latents and timestep, by the name of its argument: [N, ...] each, a row a sample."""


class Model(ABC):
    """A checkpoint of one kind. Made, it knows what the configurations say; loaded, it encodes, predicts, decodes.

    `size` is the side of its images in pixels. The network runs in the dtype it was loaded in, the autoencoder in
    `vae_dtype` on one image at a time. SDXL's autoencoder overflows in float16, so `vae_dtype` excludes it.
    """

    parts: ClassVar[Mapping[str, Class]]
    """The classes of what it loads, by its name in model_index.json."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """The parts that a checkpoint may do without."""
    denoiser: ClassVar[str] = "unet"
    """The part that predicts."""
    latent_patch: ClassVar[int] = 1
    """The side of the square of latents that is one position of the network's input."""

    guidance: Literal["free", "embedded", "none"] = "free"
    """free: classifier-free, from two branches. embedded: the network takes the scale itself. none: there is none."""
    compiled: bool = False
    """Whether the network that predicts is compiled, which gives it other last bits."""
    vae_dtype: VaeDtype = "float32"
    """tf32 is float32 with the inputs of products rounded to TF32, on GPUs."""
    vae: "AutoencoderKL"
    tokenizer: "CLIPTokenizer"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scheduler_config = read_config(folder, "scheduler")
        self.size = self._size()

    def load(
        self,
        *,
        dtype: torch.dtype,
        device: str,
        variant: str | None = None,
        adapter: LoRA | None = None,
        compile: bool = False,
        channels_last: bool = False,
        vae_dtype: VaeDtype = "float32",
    ) -> Self:
        """Load its parts, from safetensors. Raises ModelError, and what diffusers and transformers raise."""
        self.check(variant, adapter)
        for part in self.parts:
            setattr(self, part, self._tokenizers.get(part))
        for part, kind in self._networks.items():
            precision = VAE_DTYPES[vae_dtype] if part == "vae" else dtype
            setattr(self, part, load_network(self.folder, part, kind, precision, variant))
        networks = {part: getattr(self, part) for part in self.parts if not part.startswith("tokenizer")}
        if adapter is not None:
            lora.fuse(adapter, read_index(self.folder)["_class_name"], networks)
        for network in networks.values():
            if network is not None:
                network.requires_grad_(False).eval().to(device)
        self.vae_dtype = vae_dtype
        if channels_last:
            for part in {self.denoiser, "vae"} & networks.keys():
                networks[part].to(memory_format=torch.channels_last)
        if "vae" in networks:
            # in a batch a picture would have other last bits, and one of 1024 pixels takes gigabytes
            self.vae.enable_slicing()
        if compile:
            compilation.compile_network(self.network)
        self.compiled = compile
        return self

    def check_scheduler(self, supported: Collection[str], advice: str) -> None:
        """Raise ModelError if the scheduler's class has other noise levels than this model would compute."""
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

    def check(self, variant: str | None = None, adapter: LoRA | None = None) -> None:
        """Check that every part is present, complete, of a supported class, and fits the others. Raises ModelError.

        Of the weights, only names and shapes are read. The shipped model is checked only with a LoRA.
        """
        if self.folder == DEFAULT and adapter is None:
            return
        for part, kind in self._given.items():
            check_class(self.folder, part, kind)
        networks = dict[str, Any]()
        for part, kind in self._networks.items():
            networks[part] = build_network(self.folder, part, kind)
            check_weights(self.folder, part, kind, networks[part], variant)
        configs = {part: network.config for part, network in networks.items()}
        for part, tokenizer in self._tokenizers.items():
            if (encoder := configs.get(part.replace("tokenizer", "text_encoder"))) is not None:
                check_tokens(self.folder, part, tokenizer, encoder)
        self._check_fit(configs)
        if adapter is not None:
            lora.check(adapter, read_index(self.folder)["_class_name"], networks)

    def _check_fit(self, configs: Mapping[str, Any]) -> None:
        """Check that the parts fit each other, given the whole configuration of each. Raises ModelError."""
        denoiser, latents = configs[self.denoiser], configs["vae"].latent_channels * self.latent_patch**2
        if denoiser.in_channels != latents:
            raise ModelError(
                f"model {self.folder}: {self.denoiser} takes {denoiser.in_channels} channels, but latents have "
                f"{latents}: networks for inpainting, depth or instructions are not supported. Use the text-to-image "
                "checkpoint"
            )

    def _check_equal(self, setting: str, found: object, expected: object, of: str) -> None:
        """Raise ModelError unless a setting of one part is the one that another part needs."""
        if found != expected:
            raise ModelError(
                f"model {self.folder}: {setting} is {found}, expected {expected} from {of}. Use parts of one model"
            )

    def interpretation(self) -> dict[str, Any]:
        """Return the settings that change the meaning of a pair and that earlier versions ignored; often {}."""
        if self.folder == DEFAULT:
            return {}
        found = {part: placeholders(tokenizer) for part, tokenizer in self._tokenizers.items()}
        return {"placeholders": found} if any(found.values()) else {}

    @cached_property
    def _given(self) -> dict[str, Class]:
        """The classes of the parts that the checkpoint has."""
        return {
            part: kind
            for part, kind in self.parts.items()
            if part not in self.optional or not is_left_out(self.folder, part)
        }

    @property
    def _networks(self) -> dict[str, Class]:
        return {part: kind for part, kind in self._given.items() if not part.startswith("tokenizer")}

    @cached_property
    def _tokenizers(self) -> dict[str, Any]:
        return {
            part: load_tokenizer(self.folder, part, kind)
            for part, kind in self._given.items()
            if part.startswith("tokenizer")
        }

    @property
    def network(self) -> Any:
        """The network that predicts."""
        return getattr(self, self.denoiser)

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def controllable(self) -> bool:
        """Whether prompt-to-prompt can hold its edits: it attends to CLIP's tokens by layers of their own."""
        return bool(self.attention_sides)

    @property
    def latent_side(self) -> int:
        """The side of a latent, in its own pixels."""
        return self.size // self._factor()

    @property
    def attention_sides(self) -> list[int]:
        """The sides of the squares of latents at which the network attends to CLIP's tokens, the finest first."""
        return []

    @abstractmethod
    def _size(self) -> int: ...

    @abstractmethod
    def schedule(self, sampling: Sampling) -> Schedule:
        """Return the executed steps of the checkpoint's own schedule, the last `sampling.executed_steps` of it.

        Raises ValueError if the schedule has no such number of steps, or takes no `steps_offset`.
        """

    @abstractmethod
    def clean(self) -> Schedule:
        """The clean end alone: a schedule of no steps."""

    @abstractmethod
    def condition(self, captions: Sequence[str]) -> Conditions:
        """What the network takes for these captions."""

    def unconditional(self) -> Conditions:
        """What guidance leads away from where no negative caption is given: [1, ...] each."""
        return self.condition([""])

    @abstractmethod
    def predict(self, latents: torch.Tensor, timestep: float, conditions: Conditions) -> torch.Tensor:
        """Of latents, float64 [N, C, H, W] in the model's scale: the noise, or of a flow the velocity; float32 or 64.

        The same values give the same bits whatever their layout in memory.
        """

    @abstractmethod
    def truncated(self, caption: str) -> bool:
        """Whether the text encoder that sees most of a caption sees only its beginning."""

    def encode(self, pixels: torch.Tensor, posterior_seed: int | None) -> torch.Tensor:
        """Pictures, float32 [N, 3, S, S] on [-1, 1] -> latents, float32 [N, C, H, W] in the model's scale.

        The mode of the autoencoder's posterior; or a sample, each picture's with a generator of that seed.
        """
        with tf32(self.vae_dtype == "tf32"):
            posterior = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist
        latents = posterior.mode().float()
        if posterior_seed is not None:
            generator = torch.Generator().manual_seed(posterior_seed)
            noise = torch.randn(latents.shape[1:], generator=generator).to(self.device)
            latents = latents + posterior.std.float() * noise
        return self._scaled(latents)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents, float32 [N, C, H, W] in the model's scale -> pictures, float32 [N, 3, S, S] on about [-1, 1]."""
        with tf32(self.vae_dtype == "tf32"):
            return self.vae.decode(self._unscaled(latents).to(self.vae.dtype)).sample.float()

    def _scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Bring the autoencoder's latents to the model's scale."""
        return (latents - (self.vae.config.shift_factor or 0)) * self.vae.config.scaling_factor

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        return latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0)

    def _factor(self) -> int:
        """Pixels a side of a latent."""
        return 2 ** (len(read_config(self.folder, "vae").get("block_out_channels", [64])) - 1)


def cut_short(tokenizer: Any, caption: str, length: int) -> bool:
    """Whether a tokenizer makes more than `length` tokens of a caption."""
    return len(tokenizer(expanded(tokenizer, [caption])[0]).input_ids) > length


def timesteps_of(timestep: float, latents: torch.Tensor) -> torch.Tensor:
    """float32 [N], one a row of `latents`, filled in on their device: a number would be copied there, and waited for.

    To a compiled network a number is a constant: it would be compiled again at every step.
    """
    return torch.full((len(latents),), timestep, dtype=torch.float32, device=latents.device)


def tokens_of(tokenizer: Any, captions: Sequence[str], length: int, device: torch.device) -> torch.Tensor:
    """int64 [N, length]: cut, or padded with what the tokenizer pads with."""
    given = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
    return tokenizer(expanded(tokenizer, captions), **given).input_ids.to(device)
