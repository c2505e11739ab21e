"""Load a pipeline of diffusers from a checkpoint: folders, single files, LoRAs, textual inversions, quantization."""

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from edict.checkpoint import Checkpoint
from edict.errors import ModelError
from edict.model_files import WEIGHTS, read_config, read_index, read_shapes, variant_of, weights_to_load
from edict.models.base import VAE_DTYPES, LoadOptions
from edict.models.components import component_class, load_component

DENOISERS = ("transformer", "unet", "prior")
"""The names that pipelines have for the network that predicts."""
NOT_NEEDED = ("safety_checker", "feature_extractor", "image_encoder")
"""The components that a pipeline from text does not need."""
PEFT = "base_model.model."
"""The prefix of the names of weights in a file that PEFT wrote."""
QUANTIZATIONS = {
    "int8": "Int8WeightOnlyConfig",
    "int8_dynamic": "Int8DynamicActivationInt8WeightConfig",
    "float8": "Float8WeightOnlyConfig",
    "int4": "Int4WeightOnlyConfig",
}
"""Quantizations by torchao of the network that predicts, each with its class there.

int8, int4 and float8 quantize the weights. int8_dynamic also quantizes the activations.
"""


def load_pipeline(kind: Any, checkpoint: Checkpoint, options: LoadOptions) -> Any:
    """Load a pipeline of a class, with the LoRA and the textual inversions of a checkpoint.

    Raises:
        ModelError: The files do not fit the class, or cannot be quantized.
    """
    folder = checkpoint.folder
    absent: dict[str, Any] = {component: None for component in NOT_NEEDED if component in read_index(folder)}
    if checkpoint.file is not None and has_text_encoder(checkpoint.file):
        if options.quantization:
            raise ModelError(f"quantization: diffusers cannot quantize {checkpoint.file} on loading. Give a folder")
        pipe = from_single_file(kind, checkpoint.file, folder, options.dtype, **absent)
        pipe.vae.to(VAE_DTYPES[options.vae_dtype])
    else:
        components = absent | _load_components(checkpoint, options)
        with as_model_errors(f"model {folder}", kind):
            pipe = kind.from_pretrained(folder, local_files_only=True, **components)
    if checkpoint.embeddings:
        with as_model_errors("textual_inversion", kind):
            pipe.load_textual_inversion([str(file) for file in checkpoint.embeddings])
    if (lora := checkpoint.lora) is not None:
        with as_model_errors(f"lora {lora.file}", kind):
            pipe.load_lora_weights(lora_weights(lora.file, denoiser_of(pipe)), adapter_name="lora")
            if not any("lora" in names for names in pipe.get_list_adapters().values()):
                raise ValueError("it is of another model")
            pipe.set_adapters("lora", lora.scale)
    return pipe


def _load_components(checkpoint: Checkpoint, options: LoadOptions) -> dict[str, Any]:
    """Load the networks of the folder. A single-file checkpoint has the weights of the network that predicts."""
    folder, loaded = checkpoint.folder, dict[str, Any]()
    for component, kind in networks_of(folder).items():
        predicts = component in DENOISERS
        precision = VAE_DTYPES[options.vae_dtype] if component == "vae" else options.dtype
        quantization = quantization_config(options.quantization) if options.quantization and predicts else None
        if checkpoint.file is not None and predicts:
            kwargs = {} if quantization is None else {"quantization_config": quantization}
            loaded[component] = from_single_file(
                kind, checkpoint.file, folder, precision, subfolder=component, **kwargs
            )
        else:
            variant = variant_of(folder, component, checkpoint.variant)
            loaded[component] = load_component(folder, component, kind, precision, variant, quantization)
    return loaded


def check_components(kind: Any, checkpoint: Checkpoint) -> None:
    """Check that a checkpoint has the components of a pipeline's class, and the files of its networks.

    Raises:
        ModelError: A component or its weights are missing, a file cannot be read, or the class takes no textual
            inversions.
    """
    folder, index = checkpoint.folder, read_index(checkpoint.folder)
    if checkpoint.embeddings and not hasattr(kind, "load_textual_inversion"):
        raise ModelError(
            f"textual_inversion: a {kind.__name__} has no CLIP text encoder that can take one. Leave textual_inversion "
            "out"
        )
    optional = {*kind._optional_components, *NOT_NEEDED, "self"}
    for component, parameter in inspect.signature(kind.__init__).parameters.items():
        if (
            parameter.default is parameter.empty
            and component not in optional
            and index.get(component) in (None, [None, None])
        ):
            raise ModelError(
                f"model {folder}: model_index.json has no {component}, and a {kind.__name__} needs one. Use a complete "
                "checkpoint"
            )
    if checkpoint.file is not None:
        read_shapes(checkpoint.file)
        if has_text_encoder(checkpoint.file):
            return
    for component in networks_of(folder):
        read_config(folder, component)
        if checkpoint.file is not None and component in DENOISERS:
            continue
        known = component in WEIGHTS
        files = (
            weights_to_load(folder, component, checkpoint.variant)
            if known
            else [*(folder / component).glob("*.safetensors")]
        )
        if not files:
            raise ModelError(f"model {folder}: {component} has no weights in safetensors. Download the model again")
        for file in files:
            read_shapes(file)


def denoiser_of(pipe: Any) -> str:
    """Return the name of the component that predicts.

    Raises:
        ModelError: The pipeline has no such component.
    """
    found = [name for name in DENOISERS if isinstance(getattr(pipe, name, None), nn.Module)]
    if not found:
        raise ModelError(
            f"a {type(pipe).__name__} has no {' or '.join(DENOISERS)}, so it cannot invert images. Use a text-to-image "
            "or text-to-video pipeline"
        )
    return found[0]


def quantization_config(name: str) -> Any:
    """Return the configuration of diffusers for a name in QUANTIZATIONS.

    Raises:
        ModelError: torchao is not installed.
    """
    try:
        kinds = import_module("torchao.quantization")
    except ImportError as error:
        raise ModelError(f"quantization {name} needs torchao: pip install 'edict-pipeline[quantization]'") from error
    return diffusers.TorchAoConfig(getattr(kinds, QUANTIZATIONS[name])())


@contextmanager
def as_model_errors(name: str, kind: Any) -> Iterator[None]:
    """Convert the errors that diffusers raises for components that do not fit a class to a ModelError."""
    try:
        yield
    except (
        OSError,
        ValueError,
        RuntimeError,
        LookupError,
        AttributeError,
        TypeError,
        ImportError,
        SafetensorError,
    ) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f"{name} cannot be loaded into a {kind.__name__} ({reason}). Use files that were made for it"
        ) from error


def from_single_file(kind: Any, file: Path, folder: Path, dtype: torch.dtype, **kwargs: Any) -> Any:
    """Load a pipeline or a network from a single file, with the configurations of a folder.

    Raises:
        ModelError: The file does not fit the class, or diffusers cannot load the class from a single file.
    """
    if not hasattr(kind, "from_single_file"):
        raise ModelError(f"model {file}: diffusers cannot load a {kind.__name__} from a single file. Give a folder")
    with as_model_errors(f"model {file}", kind):
        return kind.from_single_file(str(file), config=str(folder), torch_dtype=dtype, local_files_only=True, **kwargs)


def lora_weights(file: Path, denoiser: str) -> dict[str, torch.Tensor]:
    """Return the weights of a LoRA file by their names. Names that only PEFT writes are converted for diffusers."""
    weights: dict[str, torch.Tensor] = load_file(file)
    if not all(name.startswith(PEFT) for name in weights):
        return weights
    config = file.with_name("adapter_config.json")
    settings = json.loads(config.read_text()) if config.is_file() else {}
    rank = settings.get("r", 1)
    scale = settings.get("lora_alpha", rank) / (rank**0.5 if settings.get("use_rslora") else rank)
    return {
        f"{denoiser}.{name.removeprefix(PEFT)}": weight * scale if ".lora_B." in name else weight
        for name, weight in weights.items()
    }


def has_text_encoder(file: Path) -> bool:
    """Return whether a single-file checkpoint has the weights of a text encoder."""
    return any(name.startswith(("cond_stage_model.", "conditioner.", "text_encoders.")) for name in read_shapes(file))


def pipeline_class(folder: Path) -> Any:
    """Return the class of a checkpoint's pipeline.

    Raises:
        ModelError: diffusers does not have this class.
    """
    named = read_index(folder).get("_class_name")
    kind = getattr(diffusers, named, None) if isinstance(named, str) else None
    if not (inspect.isclass(kind) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise ModelError(
            f"model {folder} is a {named}, which diffusers {diffusers.__version__} does not have. Code in a checkpoint "
            "is not run. Use a pipeline of diffusers, or a newer diffusers"
        )
    return kind


def networks_of(folder: Path) -> dict[str, Any]:
    """Return the class of each network of a checkpoint, by its name in model_index.json.

    Raises:
        ModelError: A component has a class that neither diffusers nor transformers has, or a tokenizer has no files.
    """
    found = dict[str, Any]()
    for component, named in read_index(folder).items():
        if component.startswith("_") or not isinstance(named, list) or len(named) != 2 or None in named:
            continue
        if component in (*NOT_NEEDED, "scheduler"):
            continue
        kind = component_class(folder, component, (named[0], named[1]))
        if component.startswith("tokenizer") and not any((folder / component).glob("*")):
            raise ModelError(f"model {folder}: {component} has no files, so it is incomplete. Download it again")
        if issubclass(kind, nn.Module):
            found[component] = kind
    return found
