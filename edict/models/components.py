"""Load the components of a checkpoint, after a check that each has its class and all of its weights.

The check builds a component on torch's meta device, where a tensor has a shape and no memory. It compares the shapes
with the headers of the safetensors files.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from edict.errors import ModelError
from edict.model_files import component_folder, read_config, read_index, read_shapes, variant_of, weights_to_load
from schemas.errors import first_line

Class = tuple[str, str]
"""A library, and the name of a class in it, as in model_index.json."""

# Names in model_index.json that stand for the same class.
_ALIASES = {
    "CLIPTokenizerFast": "CLIPTokenizer",
    "T5Tokenizer": "T5TokenizerFast",
    "Transformer2DModel": "PixArtTransformer2DModel",  # diffusers recognizes PixArt's by its norm_type.
}
_MODEL_TYPES = {
    "CLIPTextModel": ("clip_text_model", "clip"),
    "CLIPTextModelWithProjection": ("clip_text_model", "clip"),
    "T5EncoderModel": ("t5",),
}
# Weights in the file of a larger model that the component does not need.
_NOT_NEEDED = {
    "CLIPTextModel": r"vision_model\.|visual_projection\.|text_projection\.|logit_scale$|(.*\.)?position_ids$",
    "CLIPTextModelWithProjection": r"vision_model\.|visual_projection\.|logit_scale$|(.*\.)?position_ids$",
    "T5EncoderModel": r"decoder\.|lm_head\.",
    "PixArtTransformer2DModel": r"caption_projection\.y_embedding$",  # The null caption of the training.
}
_TIED = {"T5EncoderModel": ("shared.weight", "encoder.embed_tokens.weight")}
_WRAPPERS = {"_orig_mod.": "torch.compile", "module.": "DistributedDataParallel"}
_TOKENIZER_FILES = {
    "CLIPTokenizer": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "T5TokenizerFast": (("tokenizer.json",), ("spiece.model",)),
}


def class_of(kind: Class) -> Any:
    """Import a class."""
    library, name = kind
    return getattr(import_module(library), name)


def component_class(folder: Path, component: str, kind: Class) -> Any:
    """Return the class of a component.

    Raises:
        ModelError: Neither diffusers nor transformers has this class.
    """
    library, name = kind
    if library in ("diffusers", "transformers"):
        found = getattr(import_module(library), name, None)
    else:  # a class that only one pipeline of diffusers has
        found = getattr(getattr(diffusers.pipelines, library, None), name, None)
    if found is None:
        raise ModelError(
            f"model {folder}: {component} is {library}.{name}, which the installed diffusers and transformers do not "
            "have. Code in a checkpoint is not run. Use newer versions of these packages, or another checkpoint"
        )
    return found


def load_component(
    folder: Path, component: str, network_class: Any, dtype: torch.dtype, variant: str | None, quantization: Any = None
) -> Any:
    """Load a network of any class of diffusers or transformers from safetensors.

    Weights that its class keeps in float32 stay in float32.

    Raises:
        ModelError: The network cannot be loaded, or its weights are missing or unknown.
    """
    kwargs: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True, "local_files_only": True}
    if quantization is not None:
        kwargs["quantization_config"] = quantization
    kwargs["torch_dtype" if issubclass(network_class, diffusers.ModelMixin) else "dtype"] = dtype
    try:
        network, found = network_class.from_pretrained(folder, subfolder=component, variant=variant, **kwargs)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ModelError(
            f"model {folder}: {component} cannot be loaded ({first_line(error)}). Download the model again, or use "
            "newer versions of diffusers and transformers"
        ) from error
    missing, unknown = found["missing_keys"], found["unexpected_keys"]
    if not issubclass(network_class, diffusers.ModelMixin):
        unknown = []  # Files of a text encoder often have the weights of the whole language model.
    _check_names(folder, component, network_class.__name__, missing, unknown)
    return network


def is_absent(folder: Path, component: str) -> bool:
    """Return whether model_index.json has no such component."""
    return (read_index(folder).get(component) or [None, None])[1] is None


def load_network(folder: Path, component: str, kind: Class, dtype: torch.dtype, variant: str | None) -> Any:
    """Load a network from safetensors.

    Raises:
        ModelError: The library did not find all weights, or found others.
    """
    kwargs: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True}
    kwargs["variant"] = variant_of(folder, component, variant)
    if kind[0] == "diffusers":
        # True needs accelerate. False leaves some weights in the dtype of their files, so all are converted below.
        kwargs |= {"torch_dtype": dtype, "low_cpu_mem_usage": False}
    else:
        kwargs["dtype"] = dtype
    network, found = class_of(kind).from_pretrained(**_location_kwargs(folder, component), **kwargs)
    _check_names(folder, component, kind[1], found["missing_keys"], found["unexpected_keys"])
    return nn.Module.to(network, dtype)


def _location_kwargs(folder: Path, component: str) -> dict[str, Any]:
    return {
        "pretrained_model_name_or_path": folder,
        "subfolder": "" if component_folder(folder, component) == folder else component,
    }


def check_class(folder: Path, component: str, kind: Class) -> None:
    """Check the class of a component in model_index.json and in its own configuration.

    Raises:
        ModelError: The component is missing, of another class, or quantized.
    """
    named = read_index(folder).get(component)
    if not isinstance(named, list) or len(named) != 2 or named[1] is None:
        raise ModelError(
            f"model {folder}: model_index.json has no {component}, and a {read_index(folder)['_class_name']} needs one "
            f"({kind[1]}). Use a complete text-to-image checkpoint"
        )
    found = list[Any]()
    if _ALIASES.get(named[1], named[1]) != kind[1] or named[0] != kind[0]:
        found.append(".".join(map(str, named)))
    if not component.startswith("tokenizer"):
        config = read_config(folder, component)
        name = config.get("_class_name", kind[1]) if kind[0] == "diffusers" else kind[1]
        if _ALIASES.get(name, name) != kind[1]:
            found.append(name)
        types = _MODEL_TYPES.get(kind[1], ())
        if types and config.get("model_type", types[0]) not in types:
            found.append(f"of model_type {config['model_type']}")
        if config.get("quantization_config"):
            raise ModelError(
                f"model {folder}: {component} is quantized, which is not supported. Use the checkpoint in float32, "
                "float16 or bfloat16"
            )
    if found:
        raise ModelError(
            f"model {folder}: {component} is {found[0]}; only {kind[1]} is supported. Use a checkpoint with it"
        )


def load_tokenizer(folder: Path, component: str, kind: Class) -> Any:
    """Load a tokenizer.

    Raises:
        ModelError: A file is damaged, or is missing, which the library would accept.
    """
    choices = _TOKENIZER_FILES[kind[1]]
    if not any(all((folder / component / name).is_file() for name in names) for names in choices):
        files = " or ".join(" and ".join(f"{component}/{name}" for name in names) for names in choices)
        raise ModelError(f"model {folder}: {component} has no vocabulary ({files}). Download the model again")
    try:
        return class_of(kind).from_pretrained(**_location_kwargs(folder, component))
    except Exception as error:  # The library raises many kinds for damaged files.
        raise ModelError(
            f"model {folder}: {component} cannot be read ({first_line(error)}). Download it again"
        ) from error


def build_network(folder: Path, component: str, kind: Class) -> Any:
    """Build a network on the meta device from its configuration: shapes, without weights.

    Raises:
        ModelError: The configuration does not fit the class.
    """
    network_class, config = class_of(kind), read_config(folder, component)
    try:
        with torch.device("meta"):
            if kind[0] == "diffusers":
                return network_class.from_config(config)
            return network_class(network_class.config_class.from_pretrained(folder / component))
    except Exception as error:  # A configuration can be wrong in many ways.
        raise ModelError(
            f"model {folder}: {kind[1]} cannot be made from {component}/config.json ({first_line(error)}). Download it "
            "again"
        ) from error


def check_weights(folder: Path, component: str, kind: Class, network: nn.Module, variant: str | None) -> None:
    """Compare the names and shapes of the weights in a component's files with those of a network of its class.

    Raises:
        ModelError: A file cannot be read, or a weight is missing, unknown or of another shape.
    """
    expected = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    found = dict[str, tuple[int, ...]]()
    for file in weights_to_load(folder, component, variant):
        found |= read_shapes(file)
    found = _renamed(kind, network, found, expected)
    _check_names(folder, component, kind[1], expected.keys() - found.keys(), found.keys() - expected.keys())
    for name, shape in expected.items():
        if name in found and found[name] != shape:
            raise ModelError(
                f"model {folder}: {component} does not fit its config.json: {name} has the shape {list(found[name])} "
                f"in the file, but {list(shape)} by the configuration. Use the config.json that belongs to the weights"
            )


def _renamed(
    kind: Class, network: Any, found: Mapping[str, tuple[int, ...]], expected: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """Return the weights of the files by the names that the library gives them on loading."""
    if kind[0] == "diffusers":
        names = dict(found)
        network._fix_state_dict_keys_on_load(names)  # It renames the attention of old autoencoders.
        return names
    prefixes = ("text_model.", f"{network.base_model_prefix}.")
    renamed = {}
    for name, shape in found.items():
        spellings = (name, *(name.removeprefix(prefix) for prefix in prefixes), *(prefix + name for prefix in prefixes))
        renamed[next((spelling for spelling in spellings if spelling in expected), name)] = shape
    return renamed


def _check_names(folder: Path, component: str, name: str, missing: Collection[str], unknown: Collection[str]) -> None:
    """Check that the files have all weights of a class and no other ones.

    Raises:
        ModelError: A weight is missing or unknown.
    """
    if tied := _TIED.get(name):
        if not set(tied) <= set(missing):  # Either of the two stands for both.
            missing = set(missing) - set(tied)
        unknown = set(unknown) - set(tied)
    unknown = [key for key in unknown if not re.match(_NOT_NEEDED.get(name, "$"), key)]
    if not missing and not unknown:
        return
    wrong = [f"{_listed(missing)} missing"] if missing else []
    if unknown:
        wrong.append(f"{_listed(unknown)} unknown to {name}")
    prefix = next((prefix for prefix in _WRAPPERS if unknown and all(key.startswith(prefix) for key in unknown)), None)
    advice = "Use the weights and the config.json of one model"
    if prefix:
        advice = f"Save it again without the prefix {prefix!r}, which {_WRAPPERS[prefix]} adds"
    raise ModelError(f"model {folder}: {component} has other weights than its class: {', and '.join(wrong)}. {advice}")


def _listed(names: Collection[str]) -> str:
    first = min(names)
    return f"{first} is" if len(names) == 1 else f"{len(names)} weights ({first}, ...) are"


def check_tokens(folder: Path, component: str, tokenizer: Any, encoder: Any) -> None:
    """Check that a text encoder, given by its configuration, has an embedding for each token.

    Raises:
        ModelError: The tokenizer has more tokens than the text encoder has embeddings or positions.
    """
    length = getattr(encoder, "max_position_embeddings", None)
    if len(tokenizer) > encoder.vocab_size:
        raise ModelError(
            f"model {folder}: {component} has {len(tokenizer)} tokens, but its text encoder has {encoder.vocab_size} "
            "embeddings. Save the tokenizer and the text encoder of one model together"
        )
    if length is not None and tokenizer.model_max_length > length:
        raise ModelError(
            f"model {folder}: {component} makes up to {tokenizer.model_max_length} tokens, but its text encoder has "
            f"{length} positions. Set model_max_length: {length} in {component}/tokenizer_config.json"
        )


def placeholders(tokenizer: Any) -> list[str]:
    """Return the placeholders of textual inversions with several vectors, such as `<toy>` if there is `<toy>_1`."""
    added = tokenizer.added_tokens_encoder
    return sorted(token for token in added if f"{token}_1" in added)


def expand_placeholders(tokenizer: Any, captions: Sequence[str]) -> list[str]:
    """Replace each placeholder by all of its vectors, as maybe_convert_prompt of diffusers does."""
    added = tokenizer.added_tokens_encoder
    expanded = list(captions)
    for token in placeholders(tokenizer):
        vectors, number = [token], 1
        while (vector := f"{token}_{number}") in added:
            vectors.append(vector)
            number += 1
        expanded = [
            text.replace(token, " ".join(vectors)) if token in tokenizer.tokenize(text) else text for text in expanded
        ]
    return expanded
