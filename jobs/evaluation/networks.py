"""The networks of PIE-Bench's metrics, from folders in the layout of transformers: DINO's ViT, and CLIP."""

import json
from collections.abc import Callable
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate, mse_loss
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, ViTModel
from transformers.utils import logging

from jobs.evaluation.errors import EvaluationError
from schemas.errors import first_line

SIDE = 224  # pixels per side of the ViT's input
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, on [0, 1]
PUBLISHED = {
    "dino": {"patch_size": 8, "hidden_size": 768, "num_hidden_layers": 12},  # ViT-B/8
    "clip": {"patch_size": 14, "hidden_size": 1024, "num_hidden_layers": 24},  # ViT-L/14
}
"""The configurations of the networks of the published figures."""


def load_structure_distance(folder: Path, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """Return a function that computes the structure distance of two images, uint8 [3, H, W].

    It is the mean squared difference of two self-similarity matrices: the cosines between the keys of every two tokens
    in the last layer, with all heads joined and the class token included. Tumanyan et al., Splicing ViT Features for
    Semantic Appearance Transfer, CVPR 2022, 2201.00424.

    PIE-Bench's code gives the network pixels from 0 to 255, although the normalisation expects [0, 1]. It also resizes
    without anti-aliasing, as torchvision 0.13 did with tensors. This function does both, because figures without these
    two errors would not be comparable with published ones.

    Raises:
        EvaluationError: The folder does not have a ViT.
    """
    model = _load(ViTModel, "dino", "vit", folder, device, add_pooling_layer=False)
    *_, keys = (part for name, part in model.named_modules() if name.endswith((".k_proj", ".attention.key")))
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
    outputs: list[torch.Tensor] = []
    keys.register_forward_hook(lambda _module, _inputs, output: outputs.append(output[0]))

    def similarity(image: torch.Tensor) -> torch.Tensor:
        pixels = interpolate(image[None].to(device, torch.float32), (SIDE, SIDE), mode="bilinear")
        model(pixel_values=(pixels - mean) / std, interpolate_pos_encoding=True)
        tokens = outputs.pop()
        norms = tokens.norm(dim=1, keepdim=True)
        cosines: torch.Tensor = tokens @ tokens.T / (norms @ norms.T).clamp(min=1e-8)
        return cosines

    @torch.inference_mode()
    def distance(source: torch.Tensor, target: torch.Tensor) -> float:
        return float(mse_loss(similarity(target), similarity(source)))

    return distance


def load_clip_similarity(folder: Path, device: torch.device) -> Callable[[torch.Tensor, str], float]:
    """Return a function that computes the similarity of an image, uint8 [3, H, W], and a text.

    It is 100 times the cosine of their embeddings, and at least 0, as torchmetrics' CLIPScore: Hessel et al.,
    CLIPScore, EMNLP 2021, 2104.08718. A text is truncated to the maximum length of CLIP.

    Raises:
        EvaluationError: The folder does not have a CLIP model.
    """
    model = _load(CLIPModel, "clip", "clip", folder, device)
    try:  # The backend is fixed, so that the figures do not depend on whether torchvision is installed.
        pixels_of = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        tokens_of = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"--clip {folder}: CLIP's processor or tokenizer is missing ({first_line(error)}). Download the whole "
            "folder"
        ) from error
    longest = model.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def similarity(image: torch.Tensor, text: str) -> float:
        pixels = pixels_of(
            images=image.permute(1, 2, 0).numpy(), return_tensors="pt", input_data_format="channels_last"
        )
        tokens = tokens_of([text], truncation=True, max_length=longest, return_tensors="pt")
        out = model(
            pixel_values=pixels["pixel_values"].to(device),
            input_ids=tokens["input_ids"].to(device),
            attention_mask=tokens["attention_mask"].to(device),
        )
        of_image, of_text = (embedding / embedding.norm() for embedding in (out.image_embeds[0], out.text_embeds[0]))
        return max(0.0, 100 * float(of_image @ of_text))

    return similarity


def other_than_published(name: str, folder: Path) -> str | None:
    """Describe how a network differs in size from the one of the published figures. Return None if it does not."""
    config = _config(name, folder)
    config = config.get("vision_config", config)
    found = {field: config.get(field) for field in PUBLISHED[name]}
    return (
        None if found == PUBLISHED[name] else f"{found}, and the network of the published figures has {PUBLISHED[name]}"
    )


def digest(path: Path) -> str:
    """Return the sha256 of a weight file, or those of a folder's weight files in the order of their names."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(file_digest(stream, "sha256").hexdigest())
    return " ".join(digests)


def _load(kind: Any, name: str, model_type: str, folder: Path, device: torch.device, **options: Any) -> Any:
    """Load a network in float32. Missing weights are an error, because transformers would initialize them at random.

    Raises:
        EvaluationError: The folder has another model, or cannot be loaded, or lacks weights.
    """
    if (found := _config(name, folder).get("model_type")) != model_type:
        raise EvaluationError(f"--{name} {folder}: the model is a {found!r}. Give a {model_type!r} model")
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # transformers would print a table of the weights of unused heads.
    try:
        model, info = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
    except Exception as error:  # Damaged files raise OSError, ValueError, RuntimeError or an error of safetensors.
        raise EvaluationError(
            f"--{name} {folder}: cannot be loaded ({first_line(error)}). Download it again"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    if missing := sorted(info["missing_keys"]):
        raise EvaluationError(
            f"--{name} {folder}: {len(missing)} weights are missing, such as {missing[0]}. Download it again"
        )
    return model.eval().float().to(device)


def _config(name: str, folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except OSError as error:
        raise EvaluationError(f"--{name} {folder}: has no config.json. Give the folder of a model") from error
    except ValueError as error:
        raise EvaluationError(
            f"--{name} {folder}: config.json is not valid JSON ({error}). Download it again"
        ) from error
    return config if isinstance(config, dict) else {}
