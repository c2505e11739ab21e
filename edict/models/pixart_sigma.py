"""PixArt-Sigma (Chen et al., 2403.04692): noise by a transformer under T5."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers import AutoencoderKL, PixArtTransformer2DModel
from transformers import T5EncoderModel, T5TokenizerFast

from edict.checkpoint import read_config
from edict.models.model import Conditions, cut_short, timesteps_of
from edict.models.noise import NoiseModel

LENGTH = 300  # tokens of T5, the pipeline's default


class PixArtSigma(NoiseModel):
    """It reads captions in lower case; the pipeline's cleaning, which is optional there, is not done.

    Of a network that predicts its variance too, the noise counts.

    The conditions are `encoder_hidden_states` [N, 300, D], T5's, and `encoder_attention_mask` [N, 300], 1 for a token
    and 0 for padding.
    """

    parts: ClassVar = {
        "transformer": PixArtTransformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": T5EncoderModel,
        "tokenizer": T5TokenizerFast,
    }
    denoiser = "transformer"
    transformer: PixArtTransformer2DModel
    text_encoder: T5EncoderModel

    def _size(self) -> int:
        return int(read_config(self.folder, "transformer")["sample_size"]) * self._factor()

    def condition(self, captions: Sequence[str]) -> Conditions:
        tokens = self.tokenizer(
            [_read(caption) for caption in captions],
            padding="max_length",
            max_length=LENGTH,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        encoded = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)
        return {"encoder_hidden_states": encoded.last_hidden_state, "encoder_attention_mask": tokens.attention_mask}

    def predict(self, latents: torch.Tensor, timestep: float, conditions: Conditions) -> torch.Tensor:
        given = latents.to(self.transformer.dtype).contiguous()
        predicted = self.transformer(
            given,
            timestep=timesteps_of(timestep, given),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            **conditions,
        ).sample
        return self.noise(predicted[:, : latents.shape[1]], latents, timestep)

    def truncated(self, caption: str) -> bool:
        return cut_short(self.tokenizer, _read(caption), LENGTH)


def _read(caption: str) -> str:
    return caption.lower().strip()
