"""PixArt-Sigma (Chen et al., 2403.04692): noise prediction by a transformer with T5."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from edict.model_files import sample_size
from edict.models.direct import Conditions, exceeds_length, timesteps_of
from edict.models.noise import NoiseModel

if TYPE_CHECKING:
    from diffusers import PixArtTransformer2DModel
    from transformers import T5EncoderModel

LENGTH = 300
"""The number of T5 tokens, which is the pipeline's default."""


class PixArtSigma(NoiseModel):
    """PixArt-Sigma. Captions are converted to lower case, without the optional cleaning of the pipeline.

    A network that also predicts a variance has twice the channels; only the noise is used.

    The conditions are `encoder_hidden_states` [N, 300, D] of T5, and `encoder_attention_mask` [N, 300], 1 for a token
    and 0 for padding.
    """

    component_classes: ClassVar = {
        "transformer": ("diffusers", "PixArtTransformer2DModel"),
        "vae": ("diffusers", "AutoencoderKL"),
        "text_encoder": ("transformers", "T5EncoderModel"),
        "tokenizer": ("transformers", "T5TokenizerFast"),
    }
    denoiser = "transformer"
    transformer: "PixArtTransformer2DModel"
    text_encoder: "T5EncoderModel"

    def _size(self) -> int:
        return sample_size(self.folder, "transformer") * self._factor()

    def _check_fit(self, configs: Mapping[str, Any]) -> None:
        super()._check_fit(configs)
        width = configs["transformer"].caption_channels
        self._check_equal("transformer.caption_channels", width, configs["text_encoder"].d_model, "text_encoder")

    def condition(self, captions: Sequence[str]) -> Conditions:
        tokens = self.tokenizer(
            [_normalized(caption) for caption in captions],
            padding="max_length",
            max_length=LENGTH,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        encoded = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)
        return {"encoder_hidden_states": encoded.last_hidden_state, "encoder_attention_mask": tokens.attention_mask}

    def predict(self, latents: torch.Tensor, timestep: float, conditions: Conditions) -> torch.Tensor:
        model_input = latents.to(self.transformer.dtype).contiguous()
        predicted = self.transformer(
            model_input,
            timestep=timesteps_of(timestep, model_input),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            **conditions,
        ).sample
        return self.noise(predicted[:, : latents.shape[1]], latents, timestep)

    def truncated(self, caption: str) -> bool:
        return exceeds_length(self.tokenizer, _normalized(caption), LENGTH)


def _normalized(caption: str) -> str:
    """Return a caption as the pipeline gives it to the tokenizer."""
    return caption.lower().strip()
