"""Stable Diffusion 1.x and 2.x (Rombach et al., 2112.10752): one CLIP text encoder; epsilon or v-prediction."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from edict.errors import ModelError
from edict.model_files import read_config, sample_size
from edict.models.direct import Conditions, exceeds_length, timesteps_of, tokens_of
from edict.models.noise import NoiseModel

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

# Inputs of a UNet that text-to-image does not have, by the setting that requires them.
_MORE_INPUTS = {
    "time_cond_proj_dim": "the guidance scale, as networks distilled for few steps (LCM) do",
    "class_embed_type": "a class",
    "num_class_embeds": "a class",
    "encoder_hid_dim_type": "other embeddings",
    "addition_embed_type": "other embeddings",
}


class StableDiffusion(NoiseModel):
    """Stable Diffusion. The conditions are `encoder_hidden_states` [N, L, D], the encoder's last hidden states."""

    component_classes: ClassVar = {
        "unet": ("diffusers", "UNet2DConditionModel"),
        "vae": ("diffusers", "AutoencoderKL"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
    }
    addition_embed_type: ClassVar[str | None] = None
    """The kind of the UNet's additional conditions."""
    unet: "UNet2DConditionModel"
    text_encoder: "CLIPTextModel"

    @property
    def attention_sides(self) -> list[int]:
        config = read_config(self.folder, "unet")
        down = config.get("down_block_types", ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"])
        up = config.get("up_block_types", ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3)
        attends = ["CrossAttn" in a or "CrossAttn" in b for a, b in zip(down, reversed(up), strict=True)]
        attends[-1] |= "CrossAttn" in (config.get("mid_block_type", "UNetMidBlock2DCrossAttn") or "")
        return [-(-sample_size(self.folder, "unet") // 2**i) for i, does in enumerate(attends) if does]

    def _size(self) -> int:
        return sample_size(self.folder, "unet") * self._factor()

    def _check_fit(self, configs: Mapping[str, Any]) -> None:
        unet = configs["unet"]
        for setting, takes in _MORE_INPUTS.items():
            wanted = self.addition_embed_type if setting == "addition_embed_type" else None
            if (found := getattr(unet, setting, None)) != wanted:
                raise ModelError(
                    f"model {self.folder}: unet takes {takes} ({setting} is {found}, expected "
                    f"{wanted or 'null'}). Use the text-to-image checkpoint that it was made from"
                )
        super()._check_fit(configs)
        self._check_equal("unet.out_channels", unet.out_channels, unet.in_channels, "unet.in_channels")
        width = self._text_width(configs)
        self._check_equal("unet.cross_attention_dim", unet.cross_attention_dim, width, "the text encoders")

    def _text_width(self, configs: Mapping[str, Any]) -> int:
        return int(configs["text_encoder"].hidden_size)

    def condition(self, captions: Sequence[str]) -> Conditions:
        tokens = tokens_of(self.tokenizer, captions, self.tokenizer.model_max_length, self.device)
        return {"encoder_hidden_states": self.text_encoder(tokens).last_hidden_state}

    def predict(self, latents: torch.Tensor, timestep: float, conditions: Conditions) -> torch.Tensor:
        # The memory layout can change the last bits, so all latents get the same one.
        model_input = latents.to(self.unet.dtype).contiguous()
        return self.noise(
            self.unet(model_input, timesteps_of(timestep, model_input), **conditions).sample, latents, timestep
        )

    def truncated(self, caption: str) -> bool:
        return exceeds_length(self.tokenizer, caption, self.tokenizer.model_max_length)
