"""FLUX.2 (Black Forest Labs, 2025), and other pipelines with latents of 2x2 patches, normalized by a batch norm."""

from typing import Any, ClassVar

import torch

from edict.models.packed import from_patches, from_tokens, patches, tokens
from edict.models.pipeline import PipelineModel


class PatchNorm(PipelineModel):
    """Pipelines with latents [N, 4 C, H/2, W/2]."""

    pipelines: ClassVar[tuple[str, ...]] = ("ErnieImagePipeline",)
    eps: float | None = 1e-5
    """The epsilon of the batch norm; None means that of the autoencoder's configuration."""

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._batch_norm()
        return (patches(latents) - mean) / std

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._batch_norm()
        return from_patches(latents * std + mean)

    def _batch_norm(self) -> tuple[torch.Tensor, torch.Tensor]:
        norm, eps = self.vae.bn, self.vae.config.batch_norm_eps if self.eps is None else self.eps
        mean, variance = (values.float().view(1, -1, 1, 1) for values in (norm.running_mean, norm.running_var))
        return mean, (variance + eps).sqrt()


class BriaFibo2(PatchNorm):
    """BRIA Fibo 2: latents are [N, C, H, W], normalized as 2x2 patches."""

    pipelines: ClassVar[tuple[str, ...]] = ("BriaFibo2Pipeline",)
    eps = None

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        return from_patches(super().pack(latents))

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        return super().unpack(patches(latents))


class Flux2(PatchNorm):
    """FLUX.2: latents are tokens [N, H/2 * W/2, 4 C]. The call takes [N, 4 C, H/2, W/2] and makes the tokens."""

    pipelines: ClassVar[tuple[str, ...]] = ("Flux2Pipeline",)
    eps = None

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        return tokens(super().pack(latents))

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        return super().unpack(from_tokens(latents))

    def call_latents(self, latents: torch.Tensor) -> torch.Tensor:
        return from_tokens(latents)

    def num_tokens(self, tokenizer: Any, caption: str) -> int:
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        messages = format_input([caption], self.pipe.system_message)
        kwargs = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        return int(self.pipe.tokenizer.apply_chat_template(messages, **kwargs)["input_ids"].shape[1])


class Flux2Klein(Flux2):
    """FLUX.2 Klein: its text encoder is Qwen3."""

    pipelines: ClassVar[tuple[str, ...]] = ("Flux2KleinKVPipeline", "Flux2KleinPipeline")

    def num_tokens(self, tokenizer: Any, caption: str) -> int:
        return chat_tokens(tokenizer, caption, enable_thinking=False)


def chat_tokens(tokenizer: Any, caption: str, *, enable_thinking: bool) -> int:
    """Return the number of tokens of a caption as a message to Qwen3."""
    kwargs = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": enable_thinking}
    text = tokenizer.apply_chat_template([{"role": "user", "content": caption}], **kwargs)
    return len(tokenizer(text).input_ids)
