"""FLUX.1 (Black Forest Labs, 2024): a flow, by a transformer on packed latents, with CLIP's pooled text and T5.

The network of dev is distilled to take the guidance scale as an input, so one call gives the guided velocity and there
is no unconditional branch. For schnell, `guidance_scale` is classifier-free guidance: the pipeline's `true_cfg_scale`.
The default of that pipeline equals a `guidance_scale` of 1 here.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from edict.model_files import read_config, sample_size
from edict.models.direct import Conditions, exceeds_length, timesteps_of, tokens_of
from edict.models.flow import FlowModel
from edict.schedule import Schedule, flow_schedule
from schemas.sampling import Sampling

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel
    from transformers import CLIPTextModel, T5EncoderModel, T5TokenizerFast

LENGTH = 512
"""The number of T5 tokens, which is the pipeline's default."""


class Flux(FlowModel):
    """FLUX.1. Its size is that of its autoencoder, because the transformer has none.

    The conditions are `encoder_hidden_states` [N, 512, D] of T5, `pooled_projections` [N, P] of CLIP, and `guidance`
    [N], the scale, if the network takes it.
    """

    component_classes: ClassVar = {
        "transformer": ("diffusers", "FluxTransformer2DModel"),
        "vae": ("diffusers", "AutoencoderKL"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "text_encoder_2": ("transformers", "T5EncoderModel"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "tokenizer_2": ("transformers", "T5TokenizerFast"),
    }
    latent_patch = 2
    transformer: "FluxTransformer2DModel"
    text_encoder: "CLIPTextModel"
    text_encoder_2: "T5EncoderModel"
    tokenizer_2: "T5TokenizerFast"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.guidance = "embedded" if read_config(folder, "transformer").get("guidance_embeds") else "cfg"

    def _size(self) -> int:
        return sample_size(self.folder, "vae")

    def _check_fit(self, configs: Mapping[str, Any]) -> None:
        super()._check_fit(configs)
        transformer, clip, t5 = (configs[component] for component in ("transformer", "text_encoder", "text_encoder_2"))
        pooled = transformer.pooled_projection_dim
        self._check_equal("transformer.pooled_projection_dim", pooled, clip.hidden_size, "text_encoder")
        joint = transformer.joint_attention_dim
        self._check_equal("transformer.joint_attention_dim", joint, t5.d_model, "text_encoder_2")

    def schedule(self, sampling: Sampling) -> Schedule:
        steps = sampling.steps
        sigmas = None if self.scheduler_config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps)
        tokens = (self.size // self._factor() // 2) ** 2  # A token is 2x2 positions of the latents.
        return flow_schedule(self.scheduler_config, sampling, tokens=tokens, sigmas=sigmas)

    def condition(self, captions: Sequence[str]) -> Conditions:
        clip = tokens_of(self.tokenizer, captions, self.tokenizer.model_max_length, self.device)
        t5 = tokens_of(self.tokenizer_2, captions, LENGTH, self.device)
        return {
            "encoder_hidden_states": self.text_encoder_2(t5).last_hidden_state,
            "pooled_projections": self.text_encoder(clip).pooler_output,
        }

    def predict(self, latents: torch.Tensor, timestep: float, conditions: Conditions) -> torch.Tensor:
        model_input = latents.to(self.transformer.dtype)
        _, _, height, width = model_input.shape
        velocity = self.transformer(
            hidden_states=pack(model_input),
            timestep=timesteps_of(timestep, model_input).to(model_input.dtype) / 1000,
            img_ids=positions(height // 2, width // 2, model_input.dtype, model_input.device),
            txt_ids=model_input.new_zeros(LENGTH, 3),
            **conditions,
        ).sample
        return unpack(velocity, height, width).float()

    def truncated(self, caption: str) -> bool:
        return exceeds_length(self.tokenizer_2, caption, LENGTH)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Return latents [N, C, H, W] as tokens [N, H/2 * W/2, 4 C]: each has 2x2 positions of every channel."""
    blocks: torch.Tensor = latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # [N, C, H/2, 2, W/2, 2]
    return blocks.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2).contiguous()


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return tokens as latents [N, C, height, width]: undo `pack`."""
    blocks: torch.Tensor = tokens.unflatten(1, (height // 2, width // 2)).unflatten(3, (-1, 2, 2))
    return blocks.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


@cache
def positions(height: int, width: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the position of each token, [height * width, 3]: zero, row, column.

    The result is cached, because a call would wait for the copy to a GPU.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1).to(device, dtype)
