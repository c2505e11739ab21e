"""PIE-Bench's metrics of edited images.

Ju et al., PnP Inversion: Boosting Diffusion-based Editing with 3 Lines of Code, ICLR 2024, 2310.01506. The metrics
follow the authors' code, cure-lab/PnPInversion, evaluation/. Images and masks have 512 x 512 pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.evaluation import lpips
from jobs.evaluation.errors import EvaluationError
from jobs.pie_bench import find_entry, mask_runs, parse_mapping, text_field, without_brackets, without_extension
from pipeline.io.images import EXTENSIONS, ImageError, prepare
from pipeline.io.masks import PIE_BENCH_SIZE, mask_of_runs
from pipeline.progress import Progress

FOLDER = "annotation_images"
COLUMNS = {
    "structure_distance": ("structure ×10³", 1e3),
    "psnr_unedit_part": ("PSNR", 1),
    "lpips_unedit_part": ("LPIPS ×10³", 1e3),
    "mse_unedit_part": ("MSE ×10⁴", 1e4),
    "ssim_unedit_part": ("SSIM ×10²", 1e2),
    "clip_similarity_source_image": ("CLIP source", 1),
    "clip_similarity_target_image": ("CLIP whole", 1),
    "clip_similarity_target_image_edit_part": ("CLIP edited", 1),
}
"""The title and the factor of each metric in the table, as in the paper. The names and their order are PIE-Bench's."""
TYPES = (
    "random",
    "change object",
    "add object",
    "delete object",
    "change content",
    "change pose",
    "change color",
    "change material",
    "change background",
    "change style",
)
NETWORKS = {
    "dino": (
        ("structure_distance",),
        "run `hf download facebook/dino-vitb8 --local-dir dino-vitb8` and give --dino dino-vitb8",
    ),
    "lpips": (("lpips_unedit_part",), f"download {lpips.URL} and give --lpips {lpips.FILE}"),
    "clip": (
        tuple(name for name in COLUMNS if name.startswith("clip")),
        "run `hf download openai/clip-vit-large-patch14 --local-dir clip-vit-large-patch14` and give --clip "
        "clip-vit-large-patch14",
    ),
}
"""The metrics that need a network, and how to get it, by the option of the network."""


@dataclass(frozen=True)
class PieBenchEntry:
    """An entry of the mapping file. `mask` is bool [512, 512], true where the edit may change the image."""

    key: str
    type: str
    image_path: str
    source_prompt: str
    target_prompt: str
    runs: Sequence[int]

    @property
    def mask(self) -> torch.Tensor:
        return mask_of_runs(self.runs, PIE_BENCH_SIZE)


@dataclass(frozen=True)
class Networks:
    """The loaded networks. A metric whose network is None is left out."""

    structure_distance: Callable[[torch.Tensor, torch.Tensor], float] | None = None
    lpips: Callable[[torch.Tensor, torch.Tensor], float] | None = None
    clip_similarity: Callable[[torch.Tensor, str], float] | None = None


def read_mapping(file: Path) -> list[PieBenchEntry]:
    """Return the entries of PIE-Bench's mapping_file.json.

    Raises:
        EvaluationError: The file cannot be read, or an entry is not valid.
    """
    try:
        entries = [
            PieBenchEntry(
                key,
                text_field(key, entry, "editing_type_id"),
                text_field(key, entry, "image_path"),
                without_brackets(text_field(key, entry, "original_prompt")),
                without_brackets(text_field(key, entry, "editing_prompt")),
                mask_runs(key, entry),
            )
            for key, entry in parse_mapping(file.read_bytes()).items()
        ]
    except OSError as error:
        raise EvaluationError(
            f"{file}: cannot be read ({error.strerror}). Give PIE-Bench's mapping_file.json"
        ) from error
    except ValueError as error:
        raise EvaluationError(f"{file}: {error}") from error
    if not entries:
        raise EvaluationError(f"{file}: has no entries. Give PIE-Bench's mapping_file.json")
    return entries


def find_images(tree: Path, entries: Sequence[PieBenchEntry]) -> dict[str, Path]:
    """Return the edited images by the id of their entry. A file is named after the id or the image path of its entry.

    `tree` is the folder of one edit, as `edict export --format pie_bench` writes it. `entries` must not be empty.

    Raises:
        EvaluationError: The folder is another one, or has no image of any entry, or has two images of one entry.
    """
    folder = tree / FOLDER
    if not folder.is_dir():
        edits = sorted(path.parent.name for path in tree.glob(f"*/{FOLDER}"))
        hint = f"Give one of its edits: {', '.join(edits)}" if edits else "Give the folder of one edit"
        raise EvaluationError(f"{tree}: has no folder {FOLDER}, which the folder of an edit has. {hint}")
    ids = {without_extension(entry.image_path): entry.key for entry in entries} | {
        entry.key: entry.key for entry in entries
    }
    found: dict[str, Path] = {}
    for file in sorted(file for file in folder.rglob("*") if file.suffix[1:] in EXTENSIONS.values()):
        if (key := find_entry(file.relative_to(folder).with_suffix("").as_posix(), ids)) is None:
            continue
        if key in found:
            raise EvaluationError(
                f"{folder}: entry {key!r} has several images, {found[key]} and {file}. Keep one of them"
            )
        found[key] = file
    if not found:
        raise EvaluationError(
            f"{folder}: has no image of any of the {len(entries)} entries. Name the images after the ids or the image "
            f"paths of the entries, such as {entries[0].key}.png"
        )
    return found


def read_image(file: Path) -> tuple[torch.Tensor, bool]:
    """Return an image, uint8 [3, 512, 512], and whether it was resized (Lanczos) because it had another size.

    Raises:
        EvaluationError: The image cannot be read, or is not square, so that the mask would not fit.
    """
    try:
        prepared = prepare(file.read_bytes(), PIE_BENCH_SIZE, "center")
    except (OSError, ImageError) as error:
        raise EvaluationError(f"{file}: {error}") from error
    if prepared.width != prepared.height:
        raise EvaluationError(
            f"{file}: the image has {prepared.width} x {prepared.height} pixels, but PIE-Bench's masks are square. "
            "Give a square image"
        )
    pixels = torch.from_numpy(np.array(prepared.image)).permute(2, 0, 1).contiguous()
    return pixels, prepared.width != PIE_BENCH_SIZE


def measure(source: torch.Tensor, target: torch.Tensor, entry: PieBenchEntry, networks: Networks) -> dict[str, float]:
    """Return the metrics of an edited image against its source, both uint8 [3, 512, 512].

    Errors are between pixels on [0, 1].

    For the metrics of the unedited part, both images are black inside the mask. They are nan if the mask covers
    everything. PSNR is in dB, and infinite if nothing differs.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
    from torchmetrics.functional.regression import mean_squared_error

    mask = entry.mask
    part = [(image / 255 * ~mask)[None] for image in (source, target)]
    of_part: dict[str, Callable[[], float]] = {
        "psnr_unedit_part": lambda: float(peak_signal_noise_ratio(*part, data_range=1.0)),
        "mse_unedit_part": lambda: float(mean_squared_error(*part)),
        "ssim_unedit_part": lambda: float(structural_similarity_index_measure(*part, data_range=1.0)),
    }
    if (distance := networks.lpips) is not None:
        of_part["lpips_unedit_part"] = lambda: distance(*(image[0] * 2 - 1 for image in part))
    measured = {name: float("nan") if mask.all() else metric() for name, metric in of_part.items()}
    if networks.structure_distance is not None:
        measured["structure_distance"] = networks.structure_distance(source, target)
    if (similarity := networks.clip_similarity) is not None:
        measured["clip_similarity_source_image"] = similarity(source, entry.source_prompt)
        measured["clip_similarity_target_image"] = similarity(target, entry.target_prompt)
        measured["clip_similarity_target_image_edit_part"] = similarity(target * mask, entry.target_prompt)
    return {name: measured[name] for name in COLUMNS if name in measured}


def evaluate(
    entries: Sequence[PieBenchEntry], edited: Mapping[str, Path], sources: Path, networks: Networks
) -> tuple[dict[str, dict[str, float]], int]:
    """Return the metrics of every edited image by id, and the number of edited and source images that were resized.

    `edited` are the edited images by id, and `sources` is PIE-Bench's folder of source images.

    Raises:
        EvaluationError: A source does not exist, or an image cannot be used.
    """
    measurable = [entry for entry in entries if entry.key in edited]
    for entry in measurable:
        if not (sources / entry.image_path).is_file():
            raise EvaluationError(
                f"{sources}: {entry.image_path}, the source of entry {entry.key!r}, does not exist. Give PIE-Bench's "
                f"{FOLDER}"
            )
    measured, resized = {}, 0
    with Progress("pie-bench", len(measurable), "images") as progress:
        for entry in measurable:
            source, source_resized = read_image(sources / entry.image_path)
            target, target_resized = read_image(edited[entry.key])
            resized += source_resized + target_resized
            measured[entry.key] = measure(source, target, entry, networks)
            progress.advance(1)
    return measured, resized


def means(entries: Sequence[PieBenchEntry], measured: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return a row for all images, and one for each type of edit. Values that are nan are left out of a mean.

    A row has `n`, the number of images, and for each metric the `mean` and the number of values in it, `n`.
    """
    kept = [entry for entry in entries if entry.key in measured]
    groups = {"all": kept}
    for kind in sorted({entry.type for entry in kept}):
        groups[kind] = [entry for entry in kept if entry.type == kind]
    rows = []
    for kind, group in groups.items():
        row: dict[str, Any] = {"type": kind, "n": len(group)}
        for name in next(iter(measured.values())):
            values = np.array([measured[entry.key][name] for entry in group])
            values = values[~np.isnan(values)]
            row[name] = {"mean": float(values.mean()) if len(values) else float("nan"), "n": len(values)}
        rows.append(row)
    return rows


def head(row: Mapping[str, Any]) -> list[str]:
    """Return the column titles of the rows of `means`."""
    return ["edits", "images", *(COLUMNS[name][0] for name in COLUMNS if name in row)]


def line(row: Mapping[str, Any]) -> list[object]:
    """Return the cells of a row of `means`, in the order of `head`."""
    kind = row["type"]
    title = f"{kind} {TYPES[int(kind)]}" if kind in map(str, range(len(TYPES))) else kind
    cells = [f"{row[name]['mean'] * factor:.3f}" for name, (_, factor) in COLUMNS.items() if name in row]
    return [title, row["n"], *cells]
