"""Checkpoints: the shipped model, a folder, a hub id or a single file, with the adapters to add."""

from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from edict.errors import ModelError
from edict.model_files import (
    CONFIGURATIONS,
    FILE_SUFFIXES,
    WEIGHTS,
    all_weight_files,
    names_of_weights,
    other_components,
    relative_name,
    variant_of,
    weight_names,
    weights_digest,
)
from schemas.errors import first_line

DEFAULT = Path(__file__).parent / "default"
LORA = "pytorch_lora_weights.safetensors"
_SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


@dataclass(frozen=True)
class LoRA:
    """A file of LoRA weights, and the scale that multiplies them."""

    file: Path
    scale: float = 1.0


@dataclass(frozen=True)
class Checkpoint:
    """The files of a model.

    Attributes:
        folder: The folder, in the layout of diffusers.
        variant: The variant of the weights, such as fp16.
        file: A single-file checkpoint, which takes its configurations from `folder`.
        lora: LoRA weights to add.
        embeddings: Files of textual inversions to add.
    """

    folder: Path
    variant: str | None = None
    file: Path | None = None
    lora: LoRA | None = None
    embeddings: tuple[Path, ...] = ()

    @classmethod
    def locate(
        cls,
        path: str | Path | None,
        *,
        config: str | Path | None = None,
        revision: str | None = None,
        variant: str | None = None,
        lora: tuple[str | Path, float] | None = None,
        textual_inversion: str | Path | Sequence[str | Path] = (),
    ) -> "Checkpoint":
        """Return the files of a checkpoint and its adapters. Those on a hub are downloaded first.

        With `config`, a folder or hub id, `path` is a single file. `lora` is a location and a scale.

        Raises:
            ModelError: A file does not exist, or is not one that can be read.
        """
        embeddings = [textual_inversion] if isinstance(textual_inversion, str | Path) else textual_inversion
        return cls(
            locate(path if config is None else config, revision, variant),
            variant,
            None if config is None else locate_file(path),
            None if lora is None else locate_lora(*lora),
            tuple(locate_adapter("textual_inversion", embedding) for embedding in embeddings),
        )

    def digest(self) -> str:
        """Return the sha256 over everything that changes a prediction, in hexadecimal.

        Raises:
            ModelError: An index or a configuration cannot be read.
        """
        extra_files = [*([] if self.file is None else [self.file]), *self.embeddings]
        return weights_digest(self.folder, self.variant, self.lora, extra_files)


def locate(path: str | Path | None = None, revision: str | None = None, variant: str | None = None) -> Path:
    """Return the folder of a checkpoint in the diffusers layout. A hub id is downloaded first.

    None and "default" mean the shipped model. Components that have weights of `variant`, such as fp16, are downloaded
    in that variant.

    Raises:
        ModelError: There is no such folder or hub id, or it is not in this layout, or has no weights of the variant.
    """
    if path is None or path == "default":
        folder = DEFAULT
    elif Path(path).expanduser().is_dir():
        folder = Path(path).expanduser()
    elif Path(path).suffix in _SINGLE_FILES:
        raise ModelError(_single_file(Path(path).expanduser()))
    elif not _is_hub_id(path):
        raise ModelError(
            f"model {str(path)!r}: there is no such folder, and it is not a hub id (owner/name). Correct the path"
        )
    else:
        folder = _download_model(str(path), revision, variant)
    if not (folder / "model_index.json").is_file():
        if files := sorted(file for file in folder.iterdir() if file.suffix in _SINGLE_FILES):
            raise ModelError(_single_file(files[0]))
        raise ModelError(
            f"model {folder}: no model_index.json, so it is not in the diffusers folder layout. Give the folder that "
            "has this file, or download the model again"
        )
    if variant is not None and not any(variant_of(folder, component, variant) for component in WEIGHTS):
        raise ModelError(f"model {folder}: no weights of the variant {variant!r} in safetensors. Leave the variant out")
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
    """Return LoRA weights from a .safetensors file, a folder with one, or a hub id.

    Raises:
        ModelError: There is no such file, or not exactly one.
    """
    return LoRA(locate_adapter("lora", path), scale)


def locate_adapter(kind: str, path: str | Path) -> Path:
    """Return the .safetensors file of an adapter: `path` itself, or the one in a folder or hub id.

    `kind` is lora or textual_inversion.

    Raises:
        ModelError: There is no such file, or not exactly one.
    """
    file = Path(path).expanduser()
    if not file.exists():
        if not _is_hub_id(path):
            raise ModelError(
                f"{kind} {str(path)!r}: there is no such file or folder, and it is not a hub id (owner/name). Correct "
                "the path"
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
    """Return the path of a checkpoint in a single file.

    Raises:
        ModelError: The file does not exist or is not .safetensors.
    """
    file = Path(path or "").expanduser()
    if file.suffix != ".safetensors":
        raise ModelError(f"model {str(path)!r}: `config` is only valid for a .safetensors file. Leave `config` out")
    if not file.is_file():
        raise ModelError(f"model {str(path)!r}: there is no such file. Correct the path")
    return file


def _is_hub_id(path: str | Path) -> bool:
    return isinstance(path, str) and not path.startswith((".", "/", "~")) and path.count("/") == 1


def _download_model(hub_id: str, revision: str | None, variant: str | None) -> Path:
    """Download the configurations and weights of a model. Return its folder."""

    def download(files: Sequence[str], revision: str | None) -> Path:
        return _download("model", hub_id, revision, [*CONFIGURATIONS, *files])

    folder = download([name for component in WEIGHTS for name in weight_names(component, variant)], revision)
    commit = folder.name  # All further files come from this commit, even if the branch moves.
    without_variant = [component for component in WEIGHTS if component and not variant_of(folder, component, variant)]
    if variant is not None and without_variant:
        folder = download([file for component in without_variant for file in names_of_weights(component)], commit)
    if others := other_components(folder):
        folder = download([f"{component}/*.{suffix}" for component in others for suffix in FILE_SUFFIXES], commit)
    tried = set[Path]()
    while missing := {file for file in all_weight_files(folder, variant) if not file.is_file()} - tried:
        folder = download([escape(relative_name(file, folder)) for file in missing], commit)
        tried |= missing  # An index among these files can name more files, so the loop tries each file once.
    return folder


def _download(kind: str, hub_id: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{kind} {hub_id!r}: there is no such folder here, and the download from the hub failed "
            f"({first_line(error)}). Check the id and the revision, log in if the repository is gated, or give a "
            "local folder"
        ) from error
