"""What a sampler needs of a checkpoint, whatever its kind: the interface, and what most kinds share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from diffusers import AutoencoderKL, ModelMixin
from torch import nn
from transformers import CLIPTokenizer

from edict import compilation, lora
from edict.checkpoint import LoRA, home, read_config, read_index, variant_of
from edict.determinism import tf32
from edict.schedule import Schedule

VaeDtype = Literal["float32", "tf32", "bfloat16"]
VAE_DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}

Conditions = Mapping[str, torch.Tensor]
"""What a network takes beside latents and timestep, by the name of its argument: [N, ...] each, a row a sample."""


class Model(ABC):
    """A checkpoint of one kind. Made, it knows what the configurations say; loaded, it encodes, predicts, decodes.

    `size` is the pixels a side of its pictures. The network runs in the dtype it was loaded in, the autoencoder in
    `vae_dtype` and of one picture at a time: SDXL's overflows in float16, so that is no choice.
    """

    parts: ClassVar[Mapping[str, Any]]
    """The classes of what it loads, by its name in model_index.json."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """The parts that a checkpoint may do without."""
    denoiser: ClassVar[str] = "unet"
    """The part that predicts."""

    guidance: Literal["free", "embedded", "none"] = "free"
    """free: classifier-free, from two branches. embedded: the network takes the scale itself. none: there is none."""
    compiled: bool = False
    """Whether the network that predicts is compiled, which gives it other last bits."""
    vae_dtype: VaeDtype = "float32"
    """tf32 is float32 whose products are rounded to TF32, on GPUs."""
    vae: AutoencoderKL
    tokenizer: CLIPTokenizer

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
        index = read_index(self.folder)
        for part, kind in self.parts.items():
            if part in self.optional and index.get(part, [None, None])[1] is None:
                setattr(self, part, None)
                continue
            subfolder = "" if home(self.folder, part) == self.folder else part
            where: dict[str, Any] = {"pretrained_model_name_or_path": self.folder, "subfolder": subfolder}
            if part.startswith("tokenizer"):
                setattr(self, part, kind.from_pretrained(**where))
                continue
            precision = VAE_DTYPES[vae_dtype] if part == "vae" else dtype
            where |= {"use_safetensors": True, "variant": variant_of(self.folder, part, variant)}
            if issubclass(kind, ModelMixin):
                # the other way needs accelerate; this one leaves some in the dtype of their files
                network = kind.from_pretrained(torch_dtype=precision, low_cpu_mem_usage=False, **where)
                nn.Module.to(network, precision)
            else:
                network = kind.from_pretrained(dtype=precision, **where)
            setattr(self, part, network)
        networks = {part: getattr(self, part) for part in self.parts if not part.startswith("tokenizer")}
        if adapter is not None:
            lora.fuse(adapter, index["_class_name"], networks)
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
        return False

    @abstractmethod
    def _size(self) -> int: ...

    @abstractmethod
    def schedule(self, steps: int, strength: float = 1.0, steps_offset: int | None = None) -> Schedule:
        """The last executed(steps, strength) of its own `steps` steps; with another `steps_offset`, where one is given.

        Raises ValueError where there are none, or it takes no offset.
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
        return (latents - (self.vae.config.shift_factor or 0)) * self.vae.config.scaling_factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents, float32 [N, C, H, W] in the model's scale -> pictures, float32 [N, 3, S, S] on about [-1, 1]."""
        latents = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0)
        with tf32(self.vae_dtype == "tf32"):
            return self.vae.decode(latents.to(self.vae.dtype)).sample.float()

    def _factor(self) -> int:
        """Pixels a side of a latent."""
        return 2 ** (len(read_config(self.folder, "vae")["block_out_channels"]) - 1)


def cut_short(tokenizer: Any, caption: str, length: int) -> bool:
    """Whether a tokenizer makes more than `length` tokens of a caption."""
    return len(tokenizer(caption).input_ids) > length


def timesteps_of(timestep: float, latents: torch.Tensor) -> torch.Tensor:
    """float32 [N], one a row of `latents`, filled in on their device: a number would be copied there, and waited for.

    To a compiled network a number is a constant: it would be compiled again at every step.
    """
    return torch.full((len(latents),), timestep, dtype=torch.float32, device=latents.device)


def tokens_of(tokenizer: Any, captions: Sequence[str], length: int, device: torch.device) -> torch.Tensor:
    """int64 [N, length]: cut, or padded with what the tokenizer pads with."""
    given = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
    return tokenizer(list(captions), **given).input_ids.to(device)
