"""Stable Diffusion 1.x and 2.x (Rombach et al., 2112.10752): one CLIP text encoder; epsilon or v-prediction."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from edict.checkpoint import read_config
from edict.models.model import Conditions, cut_short, timesteps_of, tokens_of
from edict.models.noise import NoiseModel


class StableDiffusion(NoiseModel):
    """The conditions are `encoder_hidden_states` [N, L, D], the text encoder's last hidden states."""

    parts: ClassVar = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "tokenizer": CLIPTokenizer,
    }
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel

    @property
    def controllable(self) -> bool:
        return True

    def _size(self) -> int:
        return int(read_config(self.folder, "unet")["sample_size"]) * self._factor()

    def condition(self, captions: Sequence[str]) -> Conditions:
        tokens = tokens_of(self.tokenizer, captions, self.tokenizer.model_max_length, self.device)
        return {"encoder_hidden_states": self.text_encoder(tokens).last_hidden_state}

    def predict(self, latents: torch.Tensor, timestep: float, conditions: Conditions) -> torch.Tensor:
        # one memory layout, or the same values give other last bits
        given = latents.to(self.unet.dtype).contiguous()
        return self.noise(self.unet(given, timesteps_of(timestep, given), **conditions).sample, latents, timestep)

    def truncated(self, caption: str) -> bool:
        return cut_short(self.tokenizer, caption, self.tokenizer.model_max_length)
