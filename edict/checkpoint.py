"""Where a model's files are: the shipped default, a folder, or a hub id; and what identifies them."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

DEFAULT = Path(__file__).parent / "default"
_WEIGHTS = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model")
_FILES = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*",
    "*/config.json",
    *(f"{w}.safetensors*" for w in _WEIGHTS),
)


class ModelError(ValueError):
    """A model could not be found, or is not one this package can run."""


def locate(path: str | Path | None = None, revision: str | None = None) -> Path:
    """The folder of a Stable Diffusion 1.x checkpoint in the diffusers layout, downloaded first if it is a hub id.

    None or "default" is the shipped model. Raises ModelError naming what is missing.
    """
    if path is None or path == "default":
        folder = DEFAULT
    elif Path(path).expanduser().is_dir():
        folder = Path(path).expanduser()
    elif isinstance(path, Path) or str(path).startswith((".", "/", "~")) or str(path).count("/") != 1:
        raise ModelError(f"model {str(path)!r}: there is no such folder, and it is no hub id (owner/name)")
    else:
        folder = _download(str(path), revision)
    index_file = folder / "model_index.json"
    if not index_file.is_file():
        raise ModelError(f"model {folder}: no model_index.json, so it is not in the diffusers folder layout")
    kind = json.loads(index_file.read_text()).get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise ModelError(f"model {folder} is a {kind}; the layout supported here is StableDiffusionPipeline")
    prediction_type = read_config(folder, "scheduler").get("prediction_type", "epsilon")
    if prediction_type != "epsilon":
        raise ModelError(f"model {folder} predicts {prediction_type!r}; only epsilon prediction is supported")
    return folder


def _download(hub_id: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model {hub_id!r}: no such folder here, and it could not be fetched from the hub ({reason}); "
            "check the id and the revision, log in if it is gated, or give a local folder"
        ) from error


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """One part's JSON configuration, as `scheduler` or `unet`."""
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    file = folder / part / name
    if not file.is_file():
        raise ModelError(f"model {folder}: no {part}/{name}, so it is not whole")
    return json.loads(file.read_text())


def image_size(folder: Path) -> int:
    """Pixels a side of the pictures the checkpoint was made for."""
    scale = 2 ** (len(read_config(folder, "vae")["block_out_channels"]) - 1)
    return int(read_config(folder, "unet")["sample_size"]) * scale


def weights_digest(folder: Path) -> str:
    """sha256 over every file that decides a prediction: weights, configurations, tokenizer; their names and bytes."""
    files: Sequence[Path] = sorted(
        {file for pattern in _FILES for file in folder.glob(pattern) if file.is_file()} - {folder / "model_index.json"}
    )
    digest = sha256()
    for file in files:
        with file.open("rb") as stream:
            content = sha256()
            while block := stream.read(1 << 22):
                content.update(block)
        digest.update(f"{file.relative_to(folder).as_posix()}\0{content.hexdigest()}\n".encode())
    return digest.hexdigest()
