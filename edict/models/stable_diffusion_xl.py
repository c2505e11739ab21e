"""Stable Diffusion XL (Podell et al., 2307.01952): two text encoders, conditions on the picture's size."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from edict.checkpoint import read_index
from edict.models.model import Conditions, timesteps_of, tokens_of
from edict.models.stable_diffusion import StableDiffusion


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion with more conditions: its pictures have the model's size, whole, and it is told so.

    The conditions are `encoder_hidden_states` [N, L, D1 + D2], the encoders' last but one; `text_embeds` [N, P], pooled
    by the second; `time_ids` [N, 6]: the original size, the crop's corner, the target size, so size, size, 0, 0, size,
    size.
    """

    parts: ClassVar = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
        "tokenizer": CLIPTokenizer,
        "tokenizer_2": CLIPTokenizer,
    }
    text_encoder_2: CLIPTextModelWithProjection
    tokenizer_2: CLIPTokenizer

    def condition(self, captions: Sequence[str]) -> Conditions:
        hidden = []
        for tokenizer, encoder in ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)):
            tokens = tokens_of(tokenizer, captions, tokenizer.model_max_length, self.device)
            encoded = encoder(tokens, output_hidden_states=True)
            hidden.append(encoded.hidden_states[-2])
        time_ids = torch.tensor([self.size, self.size, 0, 0, self.size, self.size], device=self.device)
        return {
            "encoder_hidden_states": torch.cat(hidden, -1),
            "text_embeds": encoded.text_embeds,
            "time_ids": time_ids.to(self.unet.dtype).expand(len(captions), -1),
        }

    def unconditional(self) -> Conditions:
        """The empty caption's, or, with `force_zeros_for_empty_prompt`, zeros in the place of all its text."""
        empty = self.condition([""])
        if not read_index(self.folder).get("force_zeros_for_empty_prompt", True):
            return empty
        return {name: value if name == "time_ids" else torch.zeros_like(value) for name, value in empty.items()}

    def predict(self, latents: torch.Tensor, timestep: float, conditions: Conditions) -> torch.Tensor:
        added = {name: conditions[name] for name in ("text_embeds", "time_ids")}
        given = latents.to(self.unet.dtype).contiguous()
        timesteps, text = timesteps_of(timestep, given), conditions["encoder_hidden_states"]
        predicted = self.unet(given, timesteps, text, added_cond_kwargs=added).sample
        return self.noise(predicted, latents, timestep)
