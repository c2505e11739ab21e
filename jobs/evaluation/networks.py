"""The networks of PIE-Bench's metrics in folders as transformers keeps them: DINO's ViT, and CLIP."""

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

SIDE = 224  # pixels of the pictures that the ViT is shown
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, on [0, 1]
PUBLISHED = {
    "dino": {"patch_size": 8, "hidden_size": 768, "num_hidden_layers": 12},  # ViT-B/8
    "clip": {"patch_size": 14, "hidden_size": 1024, "num_hidden_layers": 24},  # ViT-L/14
}
"""What the published figures were measured with, as it stands in a network's configuration."""


def load_structure_distance(folder: Path, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """The structure distance of two pictures, uint8 [3, H, W]: how much their self-similarity differs.

    That is the mean squared difference of two matrices: the cosines between the keys (all heads in one) that the last
    layer has for every two tokens, the class token's too. Tumanyan et al., Splicing ViT Features for Semantic
    Appearance Transfer, CVPR 2022, 2201.00424.

    PIE-Bench's code gives the network pixels from 0 to 255 where its normalisation expects them on [0, 1], and resizes
    without a filter against aliasing, as torchvision 0.13 did with tensors. Both are done here, since figures that do
    it right would compare with none that is published.

    Raises EvaluationError where the folder holds no ViT.
    """
    model = _load(ViTModel, "dino", "vit", folder, device, add_pooling_layer=False)
    *_, keys = (part for name, part in model.named_modules() if name.endswith((".k_proj", ".attention.key")))
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
    seen: list[torch.Tensor] = []
    keys.register_forward_hook(lambda _module, _given, output: seen.append(output[0]))

    def similarity(picture: torch.Tensor) -> torch.Tensor:
        pixels = interpolate(picture[None].to(device, torch.float32), (SIDE, SIDE), mode="bilinear")
        model(pixel_values=(pixels - mean) / std, interpolate_pos_encoding=True)
        tokens = seen.pop()
        norms = tokens.norm(dim=1, keepdim=True)
        return tokens @ tokens.T / (norms @ norms.T).clamp(min=1e-8)

    @torch.inference_mode()
    def distance(source: torch.Tensor, target: torch.Tensor) -> float:
        return float(mse_loss(similarity(target), similarity(source)))

    return distance


def load_clip_similarity(folder: Path, device: torch.device) -> Callable[[torch.Tensor, str], float]:
    """How well a picture, uint8 [3, H, W], fits a text: 100 times the cosine of their embeddings, at least 0.

    As torchmetrics' CLIPScore: Hessel et al., CLIPScore, EMNLP 2021, 2104.08718. A text is cut to what CLIP reads.
    Raises EvaluationError where the folder holds no CLIP.
    """
    model = _load(CLIPModel, "clip", "clip", folder, device)
    try:  # Pillow resizes, whether torchvision is there or not
        pixels_of = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        tokens_of = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"--clip {folder}: has no processor or no tokenizer of CLIP ({first_line(error)}); "
            "download the whole folder"
        ) from error
    longest = model.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def similarity(picture: torch.Tensor, text: str) -> float:
        pixels = pixels_of(
            images=picture.permute(1, 2, 0).numpy(), return_tensors="pt", input_data_format="channels_last"
        )
        tokens = tokens_of([text], truncation=True, max_length=longest, return_tensors="pt")
        out = model(
            pixel_values=pixels["pixel_values"].to(device),
            input_ids=tokens["input_ids"].to(device),
            attention_mask=tokens["attention_mask"].to(device),
        )
        image, words = (one / one.norm() for one in (out.image_embeds[0], out.text_embeds[0]))
        return max(0.0, 100 * float(image @ words))

    return similarity


def other_than_published(name: str, folder: Path) -> str | None:
    """In words where a network is of another size than the one of the published figures; None where it is that one."""
    config = _config(name, folder)
    config = config.get("vision_config", config)
    found = {field: config.get(field) for field in PUBLISHED[name]}
    return None if found == PUBLISHED[name] else f"{found}, where published figures have {PUBLISHED[name]}"


def digest(path: Path) -> str:
    """sha256 of the weights: of a file, or of those files of a folder that transformers reads, in order of name."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(file_digest(stream, "sha256").hexdigest())
    return " ".join(digests)


def _load(kind: Any, name: str, model_type: str, folder: Path, device: torch.device, **options: Any) -> Any:
    """A network with all of its weights, in float32. transformers would fill in missing ones at random."""
    if (found := _config(name, folder).get("model_type")) != model_type:
        raise EvaluationError(f"--{name} {folder}: is a {found!r} model, expected {model_type!r}")
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its table of weights that another head would use
    try:
        model, info = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
    except Exception as error:  # damaged files come as OSError, ValueError, RuntimeError or safetensors' own
        raise EvaluationError(
            f"--{name} {folder}: cannot be loaded ({first_line(error)}); download it again"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    if missing := sorted(info["missing_keys"]):
        raise EvaluationError(
            f"--{name} {folder}: {len(missing)} weights are missing, as {missing[0]}; download it again"
        )
    return model.eval().float().to(device)


def _config(name: str, folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except OSError as error:
        raise EvaluationError(f"--{name} {folder}: there is no config.json, so it is no folder of a model") from error
    except ValueError as error:
        raise EvaluationError(f"--{name} {folder}: config.json is no JSON ({error})") from error
    return config if isinstance(config, dict) else {}
