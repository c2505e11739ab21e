"""FLUX.2 (Black Forest Labs, 2025): tokens of 2x2 latents, normalized by the statistics of a batch norm."""

import torch

from edict.models.packed import from_patches, from_tokens, patches, tokens
from edict.models.pipeline import PipelineModel


class Flux2(PipelineModel):
    """Latents are tokens [N, H/2 * W/2, 4 C]. The pipeline is given them as [N, 4 C, H/2, W/2] and packs them itself."""

    pipelines = ("Flux2KleinPipeline", "Flux2Pipeline")
    batched = True

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._batch_norm()
        return tokens((patches(latents) - mean) / std)

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._batch_norm()
        return from_patches(from_tokens(latents) * std + mean)

    def given(self, latents: torch.Tensor) -> torch.Tensor:
        return from_tokens(latents)

    def _batch_norm(self) -> tuple[torch.Tensor, torch.Tensor]:
        norm, eps = self.pipe.vae.bn, self.pipe.vae.config.batch_norm_eps
        mean, variance = (values.float().view(1, -1, 1, 1) for values in (norm.running_mean, norm.running_var))
        return mean, (variance + eps).sqrt()
