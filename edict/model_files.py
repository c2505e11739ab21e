"""The files in the folder of a model: configurations, weights, and the digest that identifies them."""

import json
import re
from collections.abc import Sequence
from hashlib import sha256
from importlib.util import find_spec
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from edict.errors import ModelError
from edict.file_digest import sha256_of

if TYPE_CHECKING:
    from edict.checkpoint import LoRA

WEIGHTS = {
    "": "diffusion_pytorch_model",  # the first models on pixels have no folders
    "unet": "diffusion_pytorch_model",
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "text_encoder_3": "model",
}
CONFIGURATIONS = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*",
    "tokenizer_2/*",
    "tokenizer_3/*",
    "*/config.json",
    "config.json",
    "scheduler_config.json",
)
FILE_SUFFIXES = ("json", "txt", "model", "jinja", "safetensors")
# These entries of model_index.json do not change a prediction.
_WITHOUT_EFFECT = {"safety_checker", "requires_safety_checker", "feature_extractor", "image_encoder"}


def component_folder(folder: Path, component: str) -> Path:
    """Return the folder of a component's files. The first models on pixels have them in the checkpoint's own folder."""
    return folder / component if (folder / component).is_dir() else folder


def read_index(folder: Path) -> dict[str, Any]:
    """Read model_index.json: the class of the pipeline, and that of each component.

    Raises:
        ModelError: The file is not a JSON object.
    """
    return _read(folder / "model_index.json")


def read_config(folder: Path, component: str) -> dict[str, Any]:
    """Read the JSON configuration of a component, such as `scheduler` or `unet`.

    Raises:
        ModelError: The file does not exist or is not a JSON object.
    """
    name = "scheduler_config.json" if component == "scheduler" else "config.json"
    file = component_folder(folder, component) / name
    if not file.is_file():
        raise ModelError(f"model {folder}: no {component}/{name}, so it is incomplete. Download it again")
    return _read(file)


def sample_size(folder: Path, component: str) -> int:
    """Read the side of the images or latents that a component was trained on, from its config.json.

    Raises:
        ModelError: The configuration has no such number.
    """
    size = read_config(folder, component).get("sample_size")
    if not isinstance(size, int) or size < 1:
        raise ModelError(
            f"model {folder}: {component}/config.json has the sample_size {json.dumps(size)}, and a whole number is "
            "needed. Write the side that the model was trained on"
        )
    return size


def variant_of(folder: Path, component: str, variant: str | None) -> str | None:
    """Return `variant` if the component has weights of it, else None."""
    if variant is None or (component and not (folder / component).is_dir()):
        return None
    return variant if any(any(folder.glob(name)) for name in weight_names(component, variant)) else None


def weight_names(component: str, variant: str | None) -> tuple[str, ...]:
    """Return the names of a component's weights and indexes, with those of older versions of diffusers."""
    return (*names_of_weights(component, variant), *_older_indexes(component, variant))


def names_of_weights(component: str, variant: str | None = None) -> tuple[str, ...]:
    """Return the names of a component's weights: whole, in shards, and the index of the shards."""
    stem = f"{component}/{WEIGHTS[component]}" if component else WEIGHTS[component]
    dot = f".{variant}" if variant else ""
    return f"{stem}{dot}.safetensors", f"{stem}{dot}-*.safetensors", f"{stem}.safetensors.index{dot}.json"


def _older_indexes(component: str, variant: str | None) -> tuple[str, ...]:
    """Return the names of indexes of a variant that older versions of diffusers wrote, and present ones still read.

    diffusers reads the second name if the path of the model has a dot.
    """
    if variant is None or WEIGHTS[component] == "model":  # Transformers reads neither name.
        return ()
    stem = f"{component}/{WEIGHTS[component]}" if component else WEIGHTS[component]
    return f"{stem}.safetensors.{variant}.index.json", f"{stem}.{variant}.safetensors.index.json"


def weights_to_load(folder: Path, component: str, variant: str | None) -> list[Path]:
    """Return the files that a component's weights are loaded from.

    If there are both a file and an index, diffusers takes the index and transformers takes the file.

    Raises:
        ModelError: There are no weights in safetensors, or a shard is missing or in another folder.
    """
    files = _first_weights(
        folder, component if (folder / component).is_dir() else "", variant_of(folder, component, variant)
    )
    if not files:
        raise ModelError(_no_weights(folder, component))
    if absent := [file for file in files if not file.is_file()]:
        raise ModelError(f"model {folder}: {relative_name(absent[0], folder)} is missing. Download the model again")
    own_folder = component_folder(folder, component)
    if not component.startswith("text_encoder") and (elsewhere := [f for f in files if f.parent != own_folder]):
        raise ModelError(
            f"model {folder}: the index of {component} names {relative_name(elsewhere[0], folder)}, and diffusers "
            "reads shards only from the folder of their index. Move them there, and correct the index"
        )
    return files


def _first_weights(folder: Path, component: str, variant: str | None) -> list[Path]:
    whole, _, index = names_of_weights(component, variant)
    candidates = [index, *_older_indexes(component, variant), whole]
    is_encoder = WEIGHTS[component] == "model"
    if is_encoder:
        candidates = [whole, index]
        named = read_config(folder, component).get("transformers_weights")
        if isinstance(named, str):
            candidates = [f"{component}/{named}"]
    for file in (folder / name for name in candidates):
        if file.is_file():
            return sorted(_shards(file)) if file.suffix == ".json" else [file]
    if is_encoder and any((folder / component).glob("shard-*-model-*-of-*.safetensors")):
        return sorted((folder / component).glob("*.safetensors"))
    return []


def _no_weights(folder: Path, component: str) -> str:
    """Return the error for a component without supported weights: what it has instead, and the remedy."""
    key = component if (folder / component).is_dir() else ""
    stem, names = WEIGHTS[key], sorted(file.name for file in (folder / key).iterdir())
    shards = r"(?:-\d+-of-\d+)?"
    variant = re.compile(rf"{stem}(?:\.(?P<a>[\w-]+?){shards}|{shards}\.(?P<b>[\w-]+))\.safetensors")
    variants = sorted({found["a"] or found["b"] for name in names if (found := variant.fullmatch(name))})
    if variants:
        listed = ", ".join(variants)
        return f"model {folder}: {component} has weights only of the variant {listed}. Set model.variant: {variants[0]}"
    if pickled := [name for name in names if name.endswith((".bin", ".ckpt", ".pt", ".pth"))]:
        return (
            f"model {folder}: {component} has only pickled weights ({pickled[0]}), which can run code. Convert it if "
            f"you trust it: diffusers.DiffusionPipeline.from_pretrained({str(folder)!r}, use_safetensors=False)"
            ".save_pretrained('FOLDER')"
        )
    return (
        f"model {folder}: {component} has no weights ({component}/{stem}.safetensors). Download it again; if the hub "
        "has only a variant of them, such as fp16, set model.variant"
    )


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of the tensors of a safetensors file from its header.

    Raises:
        ModelError: The file cannot be read, or is a Git LFS pointer.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(40).startswith(b"version https://git-lfs"):
                raise ModelError(f"{file} is a Git LFS pointer and not the file. Run: git lfs pull")
        with safe_open(file, "pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read ({error}). Download it again") from error


def all_weight_files(folder: Path, variant: str | None) -> set[Path]:
    """Return the weight files of every component, and their indexes. Files that only an index names may not exist."""
    files = set().union(
        *(_weight_files(folder, component, variant_of(folder, component, variant)) for component in WEIGHTS)
    )
    for component in other_components(folder):
        weights = set((folder / component).glob("*.safetensors"))
        of_variant = {file for file in weights if variant is not None and f".{variant}." in file.name}
        files |= of_variant or {file for file in weights if "." not in file.name.removesuffix(".safetensors")}
    return files


def other_components(folder: Path) -> list[str]:
    """Return the components of a checkpoint that WEIGHTS and CONFIGURATIONS do not cover.

    Pipelines of diffusers other than Stable Diffusion's have them, such as processors and second transformers.
    """
    known = WEIGHTS.keys() | _WITHOUT_EFFECT | {"scheduler", "tokenizer", "tokenizer_2", "tokenizer_3"}
    if not (folder / "model_index.json").is_file():
        return []
    named = (
        component for component, value in read_index(folder).items() if isinstance(value, list) and None not in value
    )
    return sorted(component for component in named if component not in known and (folder / component).is_dir())


def _weight_files(folder: Path, component: str, variant: str | None) -> set[Path]:
    """Return the files that can have the weights of a component.

    They have the usual names, or any name in an index of shards. `_other_encoder_files` has further files.

    Raises:
        ModelError: An index or a configuration cannot be read.
    """
    files = {
        file for pattern in names_of_weights(component, variant) for file in folder.glob(pattern) if file.is_file()
    }
    index = folder / names_of_weights(component, variant)[-1]
    if index in files:
        return files | _shards(index) | _other_encoder_files(folder, component)
    for older in (folder / name for name in _older_indexes(component, variant)):
        if older.is_file():
            named = _shards(older)
            # The index of files with the usual names adds no information, so the digest leaves it out.
            return files if named == files else files | named | {older}
    return files | _other_encoder_files(folder, component)


def _other_encoder_files(folder: Path, component: str) -> set[Path]:
    """Return the weight files of a text encoder with unusual names.

    Transformers reads a file or an index that the configuration names (`transformers_weights`), every .safetensors file
    next to shards of torch.distributed.checkpoint, and a PEFT adapter, if the package peft is installed.
    """
    encoder = folder / component
    if WEIGHTS[component] != "model" or not (encoder / "config.json").is_file():
        return set()
    files = set[Path]()
    try:
        named = _read(encoder / "config.json").get("transformers_weights")
    except ModelError:
        named = None  # Such a model cannot be loaded, and the digest includes the bytes of its configuration.
    if isinstance(named, str):
        files |= {encoder / named} | (_shards(encoder / named) if named.endswith(".index.json") else set())
    if any(encoder.glob("shard-*-model-*-of-*.safetensors")):
        files |= set(encoder.glob("*.safetensors"))
    if find_spec("peft") is not None and (encoder / "adapter_config.json").is_file():
        files |= {encoder / "adapter_config.json", *encoder.glob("adapter_model*.safetensors")}
    return files


def _shards(index: Path) -> set[Path]:
    """Return the files that an index names; none if the index does not exist.

    Raises:
        ModelError: The file is not an index.
    """
    if not index.is_file():
        return set()
    named = _read(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise ModelError(f"{index} is not an index of weights: it has no weight_map. Download the model again")
    return {index.parent / name for name in named.values()}


def _read(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: The file is not a JSON object.
    """
    try:
        content = json.loads(file.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{file} is not JSON ({error}). Download the model again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is not a JSON object. Download the model again")
    return content


def relative_name(file: Path, folder: Path) -> str:
    """Return a file's path relative to a model's folder, also for a file outside of it."""
    return Path(relpath(file, folder)).as_posix()


def weights_digest(
    folder: Path, variant: str | None = None, lora: "LoRA | None" = None, extra_files: Sequence[Path] = ()
) -> str:
    """Return the sha256 over the names and bytes of all files that change a prediction, in hexadecimal.

    They are the weights, the configurations and the tokenizers, and `extra_files`: a single-file checkpoint and textual
    inversions. The digest includes the settings in model_index.json, such as `force_zeros_for_empty_prompt`, and its
    list of absent components.

    Raises:
        ModelError: An index or a configuration cannot be read.
    """
    files = {file for pattern in CONFIGURATIONS for file in folder.glob(pattern)}
    files |= all_weight_files(folder, variant)
    for component in other_components(folder):
        files |= {file for suffix in FILE_SUFFIXES[:-1] for file in (folder / component).glob(f"*.{suffix}")}
    digest = sha256()
    for file in sorted(file for file in files - {folder / "model_index.json"} if file.is_file()):
        digest.update(f"{relative_name(file, folder)}\0{sha256_of(file)}\n".encode())
    for name, value in sorted(read_index(folder).items()):
        is_present = isinstance(value, list) and value[:1] != [None]
        if not name.startswith("_") and name not in _WITHOUT_EFFECT and not is_present:
            digest.update(f"{name}\0{json.dumps(value)}\n".encode())
    for file in extra_files:
        digest.update(f"file\0{sha256_of(file)}\n".encode())
    if lora is not None:
        digest.update(f"lora\0{sha256_of(lora.file)}\0{lora.scale}\n".encode())
    return digest.hexdigest()
