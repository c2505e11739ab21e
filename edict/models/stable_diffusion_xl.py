"""Stable Diffusion XL (Podell et al., 2307.01952): two text encoders, and conditions on the size of the image."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from edict.model_files import read_config, read_index
from edict.models.direct import Conditions, timesteps_of, tokens_of
from edict.models.stable_diffusion import StableDiffusion

if TYPE_CHECKING:
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL, for images of the model's size that are not cropped.

    The conditions are:
    - `encoder_hidden_states` [N, L, D1 + D2], the penultimate hidden states of both encoders
    - `text_embeds` [N, P], pooled by the second encoder
    - `time_ids` [N, 6]: the original size, the corner of the crop and the target size (size, size, 0, 0, size, size)
    """

    component_classes: ClassVar = {
        **StableDiffusion.component_classes,
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
        "tokenizer_2": ("transformers", "CLIPTokenizer"),
    }
    addition_embed_type = "text_time"
    text_encoder_2: "CLIPTextModelWithProjection"
    tokenizer_2: "CLIPTokenizer"

    def _check_fit(self, configs: Mapping[str, Any]) -> None:
        super()._check_fit(configs)
        unet = configs["unet"]
        available = configs["text_encoder_2"].projection_dim + 6 * unet.addition_time_embed_dim
        needed = unet.projection_class_embeddings_input_dim
        self._check_equal(
            "unet.projection_class_embeddings_input_dim", needed, available, "text_encoder_2 and 6 time ids"
        )

    def _text_width(self, configs: Mapping[str, Any]) -> int:
        return int(configs["text_encoder"].hidden_size + configs["text_encoder_2"].hidden_size)

    def interpretation(self) -> dict[str, Any]:
        found = super().interpretation()
        config = read_config(self.folder, "vae")
        if config.get("latents_mean") and config.get("latents_std"):
            found["latent_statistics"] = [config["latents_mean"], config["latents_std"]]
        return found

    def _statistics(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the autoencoder's mean and standard deviation per channel, [1, C, 1, 1], if it has both."""
        config = self.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            return None
        return tuple(torch.tensor(values, device=self.device).view(1, -1, 1, 1) for values in (mean, std))  # type: ignore[return-value]

    def _scaled(self, latents: torch.Tensor) -> torch.Tensor:
        if (statistics := self._statistics()) is None:
            return super()._scaled(latents)
        mean, std = statistics
        scaled: torch.Tensor = (latents - mean) * self.vae.config.scaling_factor / std
        return scaled

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        if (statistics := self._statistics()) is None:
            return super()._unscaled(latents)
        mean, std = statistics
        unscaled: torch.Tensor = latents * std / self.vae.config.scaling_factor + mean
        return unscaled

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
        """Return the conditions of the empty caption, with zeros for its text if `force_zeros_for_empty_prompt`."""
        empty = self.condition([""])
        if not read_index(self.folder).get("force_zeros_for_empty_prompt", True):
            return empty
        return {name: value if name == "time_ids" else torch.zeros_like(value) for name, value in empty.items()}

    def predict(self, latents: torch.Tensor, timestep: float, conditions: Conditions) -> torch.Tensor:
        added = {name: conditions[name] for name in ("text_embeds", "time_ids")}
        model_input = latents.to(self.unet.dtype).contiguous()
        timesteps, text = timesteps_of(timestep, model_input), conditions["encoder_hidden_states"]
        predicted = self.unet(model_input, timesteps, text, added_cond_kwargs=added).sample
        return self.noise(predicted, latents, timestep)
