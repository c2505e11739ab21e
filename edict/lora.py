"""LoRA weights (Hu et al., 2106.09685), added to the weights of a checkpoint: W += scale * alpha / rank * B A.

They are added once, on loading, in float32. So a prediction costs the same as without them, and its bits depend only on
the files. diffusers reads the file formats (its own, PEFT's and kohya's). PEFT is not needed, because it only serves
layers that can be removed again.
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

from edict.checkpoint import LoRA
from edict.errors import ModelError
from edict.model_files import read_shapes
from schemas.errors import first_line

Weights = dict[str, torch.Tensor]
Alphas = Mapping[str, float]
Metadata = Mapping[str, Any]


# Kinds of adapters that are not plain LoRAs, by a substring of the names of their tensors.
_UNSUPPORTED_KINDS = {
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
    """Add the weights of a LoRA file to these networks, by their names, in place.

    `pipeline` is the name of the checkpoint's class in diffusers.

    Raises:
        ModelError: The file is not a LoRA of this checkpoint.
    """
    for delta in check(lora, pipeline, networks):
        added = delta.factor * (delta.up.flatten(1) @ delta.down.flatten(1)).reshape(delta.weight.shape)
        delta.weight.data = (delta.weight.data.float() + added).to(delta.weight.dtype)


def check(lora: LoRA, pipeline: str, networks: Mapping[str, nn.Module | None]) -> list[Delta]:
    """Return the additions of a LoRA file to these networks, which can be on the meta device.

    Raises:
        ModelError: The file is not a LoRA of this checkpoint.
    """
    _check_plain(lora.file)
    state, alphas, metadata = _read(lora.file, getattr(diffusers, pipeline), networks)
    unused, deltas = set(state), list[Delta]()
    for component, network in networks.items():
        keys = {key.removeprefix(f"{component}."): key for key in state if key.startswith(f"{component}.")}
        if network is None or not keys:
            continue
        try:
            keys = _peft_names(component, network, keys)
        except ValueError as error:
            raise ModelError(
                f"lora {lora.file}: its weights for {component} have unknown names ({error}). Use a file that "
                "diffusers, PEFT or kohya's scripts wrote"
            ) from error
        weights = dict(network.named_parameters())
        for name, key in keys.items():
            module = name.removesuffix(".lora_A.weight")
            if module == name or f"{module}.lora_B.weight" not in keys:
                continue
            other = keys[f"{module}.lora_B.weight"]
            down, up = state[key].float(), state[other].float()
            factor = lora.scale * _alpha(lora.file, key, module, len(down), alphas, metadata) / len(down)
            weight = weights.get(f"{module}.weight")
            fits = weight is not None and (up[0].numel(), up.shape[0] * down[0].numel()) == (len(down), weight.numel())
            if weight is None or not fits:
                raise ModelError(
                    f"lora {lora.file}: {key} does not fit this model: the layer is missing or has another shape. "
                    "Use a LoRA that was trained for this kind of model"
                )
            deltas.append(Delta(weight, up, down, factor))
            unused -= {key, other}
    if unused or not state:
        found = f"{min(unused)} is unknown" if unused else "it is empty"
        raise ModelError(
            f"lora {lora.file} is not a plain LoRA of this model: {found}. Use one that was trained for this kind of "
            "model"
        )
    return deltas


def _check_plain(file: Path) -> None:
    """Check that a file has only tensors of a plain LoRA, because diffusers ignores some others without an error.

    Raises:
        ModelError: The file is an adapter of another kind.
    """
    for key in read_shapes(file):
        if other := next((kind for name, kind in _UNSUPPORTED_KINDS.items() if name in key), None):
            raise ModelError(
                f"lora {file} is {other} ({key}); only a plain LoRA is supported. Merge it into the checkpoint with "
                "the tool that it was made for, and give the merged checkpoint as model.path"
            )


def _read(file: Path, pipeline: Any, networks: Mapping[str, nn.Module | None]) -> tuple[Weights, Alphas, Metadata]:
    """Return the weights by component and module, as diffusers names them, kohya's alphas, and PEFT's metadata.

    Raises:
        ModelError: The pipeline takes no LoRA weights, or diffusers cannot read the file.
    """
    if not hasattr(pipeline, "lora_state_dict"):
        raise ModelError(f"lora {file}: a {pipeline.__name__} takes no LoRA weights: leave lora out")
    unet = networks.get("unet")
    options = {"return_alphas": True} if unet is None else {"unet_config": getattr(unet, "config", None)}
    try:
        state, *alphas, metadata = pipeline.lora_state_dict(
            str(file.parent),
            weight_name=file.name,
            use_safetensors=True,
            local_files_only=True,
            return_lora_metadata=True,
            **options,
        )
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(
            f"lora {file}: cannot be read as LoRA weights ({first_line(error)}). Use a file that diffusers, PEFT or "
            "kohya's scripts wrote"
        ) from error
    return state, (alphas and alphas[0]) or {}, metadata or {}


def _peft_names(component: str, network: nn.Module, keys: dict[str, str]) -> dict[str, str]:
    """Return the keys of a file by the names of PEFT: MODULE.lora_A.weight and MODULE.lora_B.weight."""
    if component.startswith("text_encoder"):
        keys = convert_state_dict_to_peft(convert_state_dict_to_diffusers(keys))
        if not hasattr(network, "text_model"):  # as in transformers 5
            keys = {name.removeprefix("text_model."): key for name, key in keys.items()}
    elif not any("lora_A" in name for name in keys):
        keys = convert_unet_state_dict_to_peft(keys)
    return keys


def _alpha(file: Path, key: str, module: str, rank: int, alphas: Alphas, metadata: Metadata) -> float:
    """Return the alpha of a module, from kohya's alphas or PEFT's metadata, or else the rank, for a factor of 1.

    Raises:
        ModelError: The module is rank-stabilised or weight-decomposed.
    """
    if alphas:
        return float(alphas.get(re.split(r"\.lora(?:_A)?\.", key)[0] + ".alpha", rank))
    component = key.partition(".")[0]
    if metadata.get(f"{component}.use_rslora") or metadata.get(f"{component}.use_dora"):
        raise ModelError(
            f"lora {file}: {key} is rank-stabilised or weight-decomposed, which is not supported. Use a plain LoRA"
        )
    patterns = metadata.get(f"{component}.alpha_pattern") or {}
    return float(patterns.get(module) or metadata.get(f"{component}.lora_alpha") or rank)
