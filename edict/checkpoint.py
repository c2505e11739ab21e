"""The files of a model, in the shipped folder, another folder or on a hub; and the digest that identifies them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from hashlib import sha256
from importlib.util import find_spec
from os.path import relpath
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from edict.file_digest import sha256_of

DEFAULT = Path(__file__).parent / "default"
WEIGHTS = {
    "": "diffusion_pytorch_model",  # the first models on pixels have no folders
    "unet": "diffusion_pytorch_model",
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "text_encoder_3": "model",
}
_CONFIGURATIONS = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*",
    "tokenizer_2/*",
    "tokenizer_3/*",
    "*/config.json",
    "config.json",
    "scheduler_config.json",
)
_KINDS_OF_FILES = ("json", "txt", "model", "jinja", "safetensors")
_DECIDES_NOTHING = {"safety_checker", "requires_safety_checker", "feature_extractor", "image_encoder"}
LORA = "pytorch_lora_weights.safetensors"
_SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


class ModelError(ValueError):
    """A model could not be found, or is not one this package can run."""


@dataclass(frozen=True)
class LoRA:
    """A file of LoRA weights, and the factor of the weights."""

    file: Path
    scale: float = 1.0


@dataclass(frozen=True)
class Checkpoint:
    """The files of a model.

    `folder` has the layout of diffusers, with weights of a `variant`, such as fp16. `file` is a single-file checkpoint
    whose configurations the folder has. `lora` and `embeddings`, of textual inversions, are loaded on top.
    """

    folder: Path
    variant: str | None = None
    file: Path | None = None
    lora: LoRA | None = None
    embeddings: tuple[Path, ...] = ()

    def digest(self) -> str:
        """Return the sha256 over everything that decides a prediction. Raises ModelError."""
        more = [*([] if self.file is None else [self.file]), *self.embeddings]
        return weights_digest(self.folder, self.variant, self.lora, more)


def locate(path: str | Path | None = None, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder of a checkpoint in the diffusers layout, downloaded first if it is a hub id.

    None or "default" is the shipped model. Of a hub id, the weights of `variant` (as fp16) where a part has them.
    Raises ModelError naming what is missing.
    """
    if path is None or path == "default":
        folder = DEFAULT
    elif Path(path).expanduser().is_dir():
        folder = Path(path).expanduser()
    elif Path(path).suffix in _SINGLE_FILES:
        raise ModelError(_single_file(Path(path).expanduser()))
    elif _no_id(path):
        raise ModelError(f"model {str(path)!r}: there is no such folder, and it is not a hub id (owner/name)")
    else:
        folder = _download_model(str(path), revision, variant)
    if not (folder / "model_index.json").is_file():
        if files := sorted(file for file in folder.iterdir() if file.suffix in _SINGLE_FILES):
            raise ModelError(_single_file(files[0]))
        raise ModelError(
            f"model {folder}: no model_index.json, so it is not in the diffusers folder layout. Give the folder that "
            "has this file, or download the model again"
        )
    if variant is not None and not any(variant_of(folder, part, variant) for part in WEIGHTS):
        raise ModelError(f"model {folder}: no weights of the variant {variant!r} in safetensors")
    return folder


def _single_file(file: Path) -> str:
    """Return the error for a checkpoint in a single file, or for the name of a missing one."""
    if not file.is_file():
        return f"model {str(file)!r}: there is no such file; give a folder in the diffusers layout or a hub id"
    return (
        f"model {file} is a single file, so its configurations are needed: give `config` (in a spec, model.config), "
        "the folder or hub id of its model in the diffusers layout. Only .safetensors files are read"
    )


def locate_lora(path: str | Path, scale: float = 1.0) -> LoRA:
    """Return LoRA weights: a .safetensors file, a folder with one, or a hub id. Raises ModelError."""
    return LoRA(locate_adapter("lora", path), scale)


def locate_adapter(kind: str, path: str | Path) -> Path:
    """Return the .safetensors file of an adapter: `path` itself, or the one in a folder or hub id, downloaded first.

    `kind` is lora or textual_inversion. Raises ModelError.
    """
    file = Path(path).expanduser()
    if not file.exists():
        if _no_id(path):
            raise ModelError(
                f"{kind} {str(path)!r}: there is no such file or folder, and it is not a hub id (owner/name)"
            )
        file = _download(kind, str(path), None, ["*.safetensors"])
    if file.is_dir():
        found = [file / LORA] if (file / LORA).is_file() else sorted(file.glob("*.safetensors"))
        if len(found) != 1:
            names = ", ".join(one.name for one in found) or "none"
            expected = f"one .safetensors file, or {LORA}" if kind == "lora" else "one .safetensors file"
            raise ModelError(f"{kind} {file}: expected {expected}, found: {names}. Give the file instead of the folder")
        file = found[0]
    if file.suffix != ".safetensors":
        raise ModelError(
            f"{kind} {file}: only .safetensors is read, because other formats can run code. Convert it to .safetensors"
        )
    return file


def locate_file(path: str | Path | None) -> Path:
    """Return a checkpoint in a single file. Raises ModelError if it does not exist or is not .safetensors."""
    file = Path(path or "").expanduser()
    if file.suffix != ".safetensors":
        raise ModelError(f"model {str(path)!r}: with `config`, the model is a .safetensors file. Leave `config` out")
    if not file.is_file():
        raise ModelError(f"model {str(path)!r}: there is no such file. Correct the path")
    return file


def _no_id(path: str | Path) -> bool:
    return isinstance(path, Path) or path.startswith((".", "/", "~")) or path.count("/") != 1


def _download_model(hub_id: str, revision: str | None, variant: str | None) -> Path:
    def fetched(weights: Sequence[str], revision: str | None) -> Path:
        return _download("model", hub_id, revision, [*_CONFIGURATIONS, *weights])

    weights = [name for part in WEIGHTS for name in (*_weights(part, variant), *_older_indexes(part, variant))]
    folder = fetched(weights, revision)
    commit = folder.name  # for later downloads
    if variant is not None and (rest := [part for part in WEIGHTS if part and not variant_of(folder, part, variant)]):
        folder = fetched([file for part in rest for file in _weights(part)], commit)
    if others := _other_components(folder):
        folder = fetched([f"{part}/*.{kind}" for part in others for kind in _KINDS_OF_FILES], commit)
    tried = set[Path]()
    while missing := {file for file in _all_weight_files(folder, variant) if not file.is_file()} - tried:
        folder = fetched([escape(_name(file, folder)) for file in missing], commit)
        tried |= missing  # each file is tried once; an index among them may name more files
    return folder


def _download(kind: str, hub_id: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{kind} {hub_id!r}: no such folder here, and it could not be fetched from the hub ({reason}); "
            "check the id and the revision, log in if it is gated, or give a local folder"
        ) from error


def home(folder: Path, part: str) -> Path:
    """Where a part's files are: its folder, or the checkpoint's own in the layout of the first models on pixels."""
    return folder / part if (folder / part).is_dir() else folder


def read_index(folder: Path) -> dict[str, Any]:
    """Read model_index.json: the pipeline's class, and that of each part. Raises ModelError."""
    return _read(folder / "model_index.json")


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """One part's JSON configuration, as `scheduler` or `unet`. Raises ModelError where there is none."""
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    file = home(folder, part) / name
    if not file.is_file():
        raise ModelError(f"model {folder}: no {part}/{name}, so it is incomplete. Download it again")
    return _read(file)


def sample_size(folder: Path, part: str) -> int:
    """Read the side of the images or latents that a part was trained on, from its config.json. Raises ModelError."""
    size = read_config(folder, part).get("sample_size")
    if not isinstance(size, int) or size < 1:
        raise ModelError(
            f"model {folder}: {part}/config.json has the sample_size {json.dumps(size)}, and a whole number is needed. "
            "Write the side that the model was trained on"
        )
    return size


def variant_of(folder: Path, part: str, variant: str | None) -> str | None:
    """`variant` where the part has weights of it, else None."""
    if variant is None or (part and not (folder / part).is_dir()):
        return None
    names = (*_weights(part, variant), *_older_indexes(part, variant))
    return variant if any(any(folder.glob(name)) for name in names) else None


def _weights(part: str, variant: str | None = None) -> tuple[str, ...]:
    """The names of a part's weights: whole, in shards, and their index."""
    stem = f"{part}/{WEIGHTS[part]}" if part else WEIGHTS[part]
    dot = f".{variant}" if variant else ""
    return f"{stem}{dot}.safetensors", f"{stem}{dot}-*.safetensors", f"{stem}.safetensors.index{dot}.json"


def _older_indexes(part: str, variant: str | None) -> tuple[str, ...]:
    """Return the names of indexes of a variant that older versions of diffusers wrote, and present ones still read.

    diffusers reads the second name if the path of the model has a dot.
    """
    if variant is None or WEIGHTS[part] == "model":  # transformers reads neither
        return ()
    stem = f"{part}/{WEIGHTS[part]}" if part else WEIGHTS[part]
    return f"{stem}.safetensors.{variant}.index.json", f"{stem}.{variant}.safetensors.index.json"


def weights_to_load(folder: Path, part: str, variant: str | None) -> list[Path]:
    """Return the files that a part's weights are loaded from. Raises ModelError if there are none.

    If there are both a file and an index, diffusers takes the index and transformers takes the file.
    """
    files = _first_weights(folder, part if (folder / part).is_dir() else "", variant_of(folder, part, variant))
    if not files:
        raise ModelError(_no_weights(folder, part))
    if absent := [file for file in files if not file.is_file()]:
        raise ModelError(f"model {folder}: {_name(absent[0], folder)} is missing. Download the model again")
    if not part.startswith("text_encoder") and (apart := [f for f in files if f.parent != home(folder, part)]):
        raise ModelError(
            f"model {folder}: the index of {part} names {_name(apart[0], folder)}, and diffusers reads shards only "
            "from the folder of their index. Move them there, and correct the index"
        )
    return files


def _first_weights(folder: Path, part: str, variant: str | None) -> list[Path]:
    whole, _, index = _weights(part, variant)
    candidates = [index, *_older_indexes(part, variant), whole]
    is_encoder = WEIGHTS[part] == "model"
    if is_encoder:
        candidates = [whole, index]
        named = read_config(folder, part).get("transformers_weights")
        if isinstance(named, str):
            candidates = [f"{part}/{named}"]
    for file in (folder / name for name in candidates):
        if file.is_file():
            return sorted(_shards(file)) if file.suffix == ".json" else [file]
    if is_encoder and any((folder / part).glob("shard-*-model-*-of-*.safetensors")):
        return sorted((folder / part).glob("*.safetensors"))
    return []


def _no_weights(folder: Path, part: str) -> str:
    """Return the error for a part without weights: the unsupported ones that it has instead, and the remedy."""
    key = part if (folder / part).is_dir() else ""
    stem, names = WEIGHTS[key], sorted(file.name for file in (folder / key).iterdir())
    shards = r"(?:-\d+-of-\d+)?"
    variant = re.compile(rf"{stem}(?:\.(?P<a>[\w-]+?){shards}|{shards}\.(?P<b>[\w-]+))\.safetensors")
    variants = sorted({found["a"] or found["b"] for name in names if (found := variant.fullmatch(name))})
    if variants:
        listed = ", ".join(variants)
        return f"model {folder}: {part} has weights only of the variant {listed}. Set model.variant: {variants[0]}"
    if pickled := [name for name in names if name.endswith((".bin", ".ckpt", ".pt", ".pth"))]:
        return (
            f"model {folder}: {part} has only pickled weights ({pickled[0]}), which can run code. Convert it if you "
            f"trust it: diffusers.DiffusionPipeline.from_pretrained({str(folder)!r}, use_safetensors=False)"
            ".save_pretrained('FOLDER')"
        )
    return (
        f"model {folder}: {part} has no weights ({part}/{stem}.safetensors). Download it again; if the hub has only a "
        "variant of them, such as fp16, set model.variant"
    )


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of the tensors of a safetensors file from its header. Raises ModelError."""
    try:
        with file.open("rb") as stream:
            if stream.read(40).startswith(b"version https://git-lfs"):
                raise ModelError(f"{file} is a Git LFS pointer and not the file. Run: git lfs pull")
        with safe_open(file, "pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read ({error}). Download it again") from error


def _all_weight_files(folder: Path, variant: str | None) -> set[Path]:
    """Return the weight files of every part, and their indexes. Files that only an index names may not exist."""
    files = set().union(*(_weight_files(folder, part, variant_of(folder, part, variant)) for part in WEIGHTS))
    for part in _other_components(folder):
        weights = set((folder / part).glob("*.safetensors"))
        of_variant = {file for file in weights if variant is not None and f".{variant}." in file.name}
        files |= of_variant or {file for file in weights if "." not in file.name.removesuffix(".safetensors")}
    return files


def _other_components(folder: Path) -> list[str]:
    """Return the components of a checkpoint that WEIGHTS and _CONFIGURATIONS do not cover.

    Pipelines of diffusers other than Stable Diffusion's have them, such as processors and second transformers.
    """
    known = WEIGHTS.keys() | _DECIDES_NOTHING | {"scheduler", "tokenizer", "tokenizer_2", "tokenizer_3"}
    if not (folder / "model_index.json").is_file():
        return []
    named = (part for part, value in read_index(folder).items() if isinstance(value, list) and None not in value)
    return sorted(part for part in named if part not in known and (folder / part).is_dir())


def _weight_files(folder: Path, part: str, variant: str | None) -> set[Path]:
    """Return the files that can have the weights of a part.

    They have the usual names, or any name in an index of shards. The weights of a text encoder can also be in a file or
    an index that its configuration names (`transformers_weights`), in shards of torch.distributed.checkpoint, next to
    which transformers reads every .safetensors file, or in a PEFT adapter, if the package peft is installed.

    Raises ModelError if an index or a configuration cannot be read.
    """
    files = {file for pattern in _weights(part, variant) for file in folder.glob(pattern) if file.is_file()}
    index = folder / _weights(part, variant)[-1]
    if index in files:
        return files | _shards(index) | _more_of_encoder(folder, part)
    for older in (folder / name for name in _older_indexes(part, variant)):
        if older.is_file():
            named = _shards(older)
            # the digest leaves out the index of files with the usual names, which adds no information
            return files if named == files else files | named | {older}
    return files | _more_of_encoder(folder, part)


def _more_of_encoder(folder: Path, part: str) -> set[Path]:
    """Return the weight files of a text encoder that have other than the usual names."""
    home = folder / part
    if WEIGHTS[part] != "model" or not (home / "config.json").is_file():
        return set()
    files = set[Path]()
    try:
        named = _read(home / "config.json").get("transformers_weights")
    except ModelError:
        named = None  # a model with such a configuration cannot be loaded; the digest has the file's bytes
    if isinstance(named, str):
        files |= {home / named} | (_shards(home / named) if named.endswith(".index.json") else set())
    if any(home.glob("shard-*-model-*-of-*.safetensors")):
        files |= set(home.glob("*.safetensors"))
    if find_spec("peft") is not None and (home / "adapter_config.json").is_file():
        files |= {home / "adapter_config.json", *home.glob("adapter_model*.safetensors")}
    return files


def _shards(index: Path) -> set[Path]:
    """Return the files that an index names; none if it does not exist. Raises ModelError if it is not an index."""
    if not index.is_file():
        return set()
    named = _read(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise ModelError(f"{index} is not an index of weights: it has no weight_map. Download the model again")
    return {index.parent / name for name in named.values()}


def _read(file: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ModelError."""
    try:
        content = json.loads(file.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{file} is not JSON ({error}). Download the model again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is not a JSON object. Download the model again")
    return content


def _name(file: Path, folder: Path) -> str:
    """Return a file's path relative to a model's folder, also for a file outside of it."""
    return Path(relpath(file, folder)).as_posix()


def weights_digest(
    folder: Path, variant: str | None = None, lora: LoRA | None = None, more: Sequence[Path] = ()
) -> str:
    """Return the sha256 over the names and bytes of all files that decide a prediction.

    They are the weights, the configurations and the tokenizers. `more` are further files: a single-file checkpoint,
    textual inversions. The digest includes the settings in model_index.json, such as `force_zeros_for_empty_prompt`,
    and its list of absent parts. Raises ModelError.
    """
    files = {file for pattern in _CONFIGURATIONS for file in folder.glob(pattern)}
    files |= _all_weight_files(folder, variant)
    for part in _other_components(folder):
        files |= {file for kind in _KINDS_OF_FILES[:-1] for file in (folder / part).glob(f"*.{kind}")}
    digest = sha256()
    for file in sorted(file for file in files - {folder / "model_index.json"} if file.is_file()):
        digest.update(f"{_name(file, folder)}\0{sha256_of(file)}\n".encode())
    for name, value in sorted(read_index(folder).items()):
        is_part = isinstance(value, list) and value[:1] != [None]
        if not name.startswith("_") and name not in _DECIDES_NOTHING and not is_part:
            digest.update(f"{name}\0{json.dumps(value)}\n".encode())
    for file in more:
        digest.update(f"file\0{sha256_of(file)}\n".encode())
    if lora is not None:
        digest.update(f"lora\0{sha256_of(lora.file)}\0{lora.scale}\n".encode())
    return digest.hexdigest()
