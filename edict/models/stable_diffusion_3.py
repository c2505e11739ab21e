"""Stable Diffusion 3 and 3.5 (Esser et al., 2403.03206): a flow, by a transformer with two CLIP encoders and T5."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F

from edict.model_files import read_config, sample_size
from edict.models.direct import Conditions, exceeds_length, timesteps_of, tokens_of
from edict.models.flow import FlowModel
from edict.schedule import Schedule, flow_schedule
from schemas.sampling import Sampling

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

LENGTH = 256
"""The number of T5 tokens, which is the pipeline's default."""


class StableDiffusion3(FlowModel):
    """Stable Diffusion 3. A checkpoint can lack T5; then zeros replace its hidden states.

    The conditions are `encoder_hidden_states` [N, L + 256, D]: the penultimate hidden states of both CLIP encoders,
    side by side and padded to the width of T5, and then those of T5. `pooled_projections` [N, P] come from both CLIP
    encoders.
    """

    component_classes: ClassVar = {
        "transformer": ("diffusers", "SD3Transformer2DModel"),
        "vae": ("diffusers", "AutoencoderKL"),
        "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
        "text_encoder_3": ("transformers", "T5EncoderModel"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "tokenizer_2": ("transformers", "CLIPTokenizer"),
        "tokenizer_3": ("transformers", "T5TokenizerFast"),
    }
    optional_components: ClassVar = frozenset({"text_encoder_3", "tokenizer_3"})
    transformer: "SD3Transformer2DModel"
    text_encoder: "CLIPTextModelWithProjection"
    text_encoder_2: "CLIPTextModelWithProjection"
    text_encoder_3: "T5EncoderModel | None"
    tokenizer_2: "CLIPTokenizer"
    tokenizer_3: "T5TokenizerFast | None"

    def _size(self) -> int:
        return sample_size(self.folder, "transformer") * self._factor()

    def _check_fit(self, configs: Mapping[str, Any]) -> None:
        super()._check_fit(configs)
        transformer = configs["transformer"]
        pooled = configs["text_encoder"].projection_dim + configs["text_encoder_2"].projection_dim
        self._check_equal(
            "transformer.pooled_projection_dim", transformer.pooled_projection_dim, pooled, "the text encoders"
        )
        if "text_encoder_3" in configs:
            width = configs["text_encoder_3"].d_model
            self._check_equal(
                "transformer.joint_attention_dim", transformer.joint_attention_dim, width, "text_encoder_3"
            )

    def schedule(self, sampling: Sampling) -> Schedule:
        side = self.size // self._factor() // read_config(self.folder, "transformer").get("patch_size", 2)
        return flow_schedule(self.scheduler_config, sampling, tokens=side**2)

    def condition(self, captions: Sequence[str]) -> Conditions:
        hidden, pooled = [], []
        for tokenizer, encoder in ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)):
            tokens = tokens_of(tokenizer, captions, self.tokenizer.model_max_length, self.device)
            encoded = encoder(tokens, output_hidden_states=True)
            hidden.append(encoded.hidden_states[-2])
            pooled.append(encoded.text_embeds)
        if self.text_encoder_3 is None:
            width = self.transformer.config.joint_attention_dim
            t5 = hidden[0].new_zeros(len(captions), LENGTH, width)
        else:
            t5 = self.text_encoder_3(tokens_of(self.tokenizer_3, captions, LENGTH, self.device)).last_hidden_state
        clip = torch.cat(hidden, -1)
        clip = F.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        return {"encoder_hidden_states": torch.cat([clip, t5], 1), "pooled_projections": torch.cat(pooled, -1)}

    def predict(self, latents: torch.Tensor, timestep: float, conditions: Conditions) -> torch.Tensor:
        model_input = latents.to(self.transformer.dtype).contiguous()
        velocity: torch.Tensor = self.transformer(
            model_input, timestep=timesteps_of(timestep, model_input), **conditions
        ).sample.float()
        return velocity

    def truncated(self, caption: str) -> bool:
        if self.tokenizer_3 is None:
            return exceeds_length(self.tokenizer, caption, self.tokenizer.model_max_length)
        return exceeds_length(self.tokenizer_3, caption, LENGTH)
