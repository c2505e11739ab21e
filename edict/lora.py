"""LoRA weights (Hu et al., 2106.09685) added to a checkpoint's own: W += scale * alpha / rank * B A.

Once, on loading, in float32: so that a prediction costs what it did, and its bits depend on the files alone. diffusers
reads the file formats (its own, PEFT's, kohya's); what it needs PEFT for, layers that can be taken off again, is not.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils.state_dict_utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from torch import nn

from edict.checkpoint import LoRA, ModelError, read_shapes

Weights = dict[str, torch.Tensor]
Alphas = Mapping[str, float]
Metadata = Mapping[str, Any]


# Kinds of adapters that are not plain LoRAs, by a part of the names of their tensors.
_OTHERS = {
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "lora_mid": "a LoRA in Tucker form",
    "oft_": "an OFT",
    "glora": "a GLoRA",
    "on_input": "an (IA)3",
}


@dataclass(frozen=True)
class Delta:
    """The addition of a LoRA to one weight: factor * up @ down."""

    weight: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor
    factor: float


def fuse(lora: LoRA, pipeline: str, networks: Mapping[str, nn.Module | None]) -> None:
    """Add the weights of a LoRA file to the networks it is for, by their names, in place.

    `pipeline` names the checkpoint's diffusers class.

    Raises:
        ModelError: the file is not a LoRA of this checkpoint.
    """
    for change in check(lora, pipeline, networks):
        added = change.factor * (change.up.flatten(1) @ change.down.flatten(1)).reshape(change.weight.shape)
        change.weight.data = (change.weight.data.float() + added).to(change.weight.dtype)


def check(lora: LoRA, pipeline: str, networks: Mapping[str, nn.Module | None]) -> list[Delta]:
    """Return the additions of a LoRA file to these networks, which can be on the meta device. Raises as `fuse`."""
    _check_plain(lora.file)
    state, alphas, metadata = _read(lora.file, getattr(diffusers, pipeline), networks)
    strangers, changes = set(state), list[Delta]()
    for part, network in networks.items():
        keys = {key.removeprefix(f"{part}."): key for key in state if key.startswith(f"{part}.")}
        if network is None or not keys:
            continue
        try:
            keys = _renamed(part, network, keys)
        except ValueError as error:
            raise ModelError(f"lora {lora.file}: its weights for {part} are in no known spelling ({error})") from error
        weights = dict(network.named_parameters())
        for name, key in keys.items():
            module = name.removesuffix(".lora_A.weight")
            if module == name or f"{module}.lora_B.weight" not in keys:
                continue
            other = keys[f"{module}.lora_B.weight"]
            down, up = state[key].float(), state[other].float()
            factor = lora.scale * _alpha(key, module, len(down), alphas, metadata) / len(down)
            weight = weights.get(f"{module}.weight")
            fits = weight is not None and (up[0].numel(), up.shape[0] * down[0].numel()) == (len(down), weight.numel())
            if weight is None or not fits:
                raise ModelError(
                    f"lora {lora.file}: {key} does not fit this model: the layer is missing or has another shape. "
                    "Use a LoRA that was trained for this kind of model"
                )
            changes.append(Delta(weight, up, down, factor))
            strangers -= {key, other}
    if strangers or not state:
        found = f"{min(strangers)} is unknown" if strangers else "it is empty"
        raise ModelError(
            f"lora {lora.file} is not a plain LoRA of this model: {found}. Use one that was trained for this kind of "
            "model"
        )
    return changes


def _check_plain(file: Path) -> None:
    """Raise ModelError for a file with tensors that a plain LoRA does not have: diffusers drops some silently."""
    for key in read_shapes(file):
        if other := next((kind for name, kind in _OTHERS.items() if name in key), None):
            raise ModelError(
                f"lora {file} is {other} ({key}); only a plain LoRA is supported. Merge it into the checkpoint with "
                "the tool that it was made for, and give the merged checkpoint as model.path"
            )


def _read(file: Path, pipeline: Any, networks: Mapping[str, nn.Module | None]) -> tuple[Weights, Alphas, Metadata]:
    """The weights by part and module, in one of diffusers' spellings; kohya's alphas; what PEFT noted."""
    if not hasattr(pipeline, "lora_state_dict"):
        raise ModelError(f"lora {file}: a {pipeline.__name__} takes no LoRA weights: leave lora out")
    unet = networks.get("unet")
    told = {"return_alphas": True} if unet is None else {"unet_config": getattr(unet, "config", None)}
    try:
        state, *alphas, metadata = pipeline.lora_state_dict(
            str(file.parent),
            weight_name=file.name,
            use_safetensors=True,
            local_files_only=True,
            return_lora_metadata=True,
            **told,
        )
    except (ValueError, KeyError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"lora {file}: cannot be read as LoRA weights ({reason})") from error
    return state, (alphas and alphas[0]) or {}, metadata or {}


def _renamed(part: str, network: nn.Module, keys: dict[str, str]) -> dict[str, str]:
    """Keys of a file by PEFT's names: MODULE.lora_A.weight and MODULE.lora_B.weight."""
    if part.startswith("text_encoder"):
        keys = convert_state_dict_to_peft(convert_state_dict_to_diffusers(keys))
        if not hasattr(network, "text_model"):  # as transformers 5 has it
            keys = {name.removeprefix("text_model."): key for name, key in keys.items()}
    elif not any("lora_A" in name for name in keys):
        keys = convert_unet_state_dict_to_peft(keys)
    return keys


def _alpha(key: str, module: str, rank: int, alphas: Alphas, metadata: Metadata) -> float:
    """kohya's of the module, or what PEFT noted of the part; else the rank, which is a factor of 1."""
    if alphas:
        return float(alphas.get(re.split(r"\.lora(?:_A)?\.", key)[0] + ".alpha", rank))
    part = key.partition(".")[0]
    if metadata.get(f"{part}.use_rslora") or metadata.get(f"{part}.use_dora"):
        raise ModelError(f"lora: {key} is rank-stabilised or weight-decomposed, which is not supported")
    patterns = metadata.get(f"{part}.alpha_pattern") or {}
    return float(patterns.get(module) or metadata.get(f"{part}.lora_alpha") or rank)
