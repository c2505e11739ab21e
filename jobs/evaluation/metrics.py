"""PIE-Bench's metrics of edited pictures.

Ju et al., PnP Inversion: Boosting Diffusion-based Editing with 3 Lines of Code, ICLR 2024, 2310.01506; what is computed
follows the code beside it, cure-lab/PnPInversion, evaluation/. Pictures and masks are 512 x 512.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.evaluation import lpips
from jobs.evaluation.errors import EvaluationError
from jobs.pie_bench import find_entry, mask_of, plain, read_entries, stem, text_of
from pipeline.io.images import EXTENSIONS, ImageError, prepare
from pipeline.io.masks import PIE_BENCH_SIZE, mask_of_runs
from pipeline.progress import Progress

FOLDER = "annotation_images"
COLUMNS = {  # as the paper's tables have them
    "structure_distance": ("structure ×10³", 1e3),
    "psnr_unedit_part": ("PSNR", 1),
    "lpips_unedit_part": ("LPIPS ×10³", 1e3),
    "mse_unedit_part": ("MSE ×10⁴", 1e4),
    "ssim_unedit_part": ("SSIM ×10²", 1e2),
    "clip_similarity_source_image": ("CLIP source", 1),
    "clip_similarity_target_image": ("CLIP whole", 1),
    "clip_similarity_target_image_edit_part": ("CLIP edited", 1),
}
"""The metrics by PIE-Bench's names, in its order: how they are headed in the table, and by what they are multiplied."""
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
        "hf download facebook/dino-vitb8 --local-dir dino-vitb8, and give --dino dino-vitb8",
    ),
    "lpips": (("lpips_unedit_part",), f"download {lpips.URL}, and give --lpips {lpips.FILE}"),
    "clip": (
        tuple(name for name in COLUMNS if name.startswith("clip")),
        "hf download openai/clip-vit-large-patch14 --local-dir clip-vit-large-patch14, and give --clip "
        "clip-vit-large-patch14",
    ),
}
"""By option: the metrics that need the network, and how to come by it."""


@dataclass(frozen=True)
class PieBenchEntry:
    """An entry of the mapping file; `mask` is bool [512, 512], true where the edit may change the picture."""

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
    """The networks that were given, loaded; a metric whose network is None is left out."""

    structure_distance: Callable[[torch.Tensor, torch.Tensor], float] | None = None
    lpips: Callable[[torch.Tensor, torch.Tensor], float] | None = None
    clip_similarity: Callable[[torch.Tensor, str], float] | None = None


def read_mapping(file: Path) -> list[PieBenchEntry]:
    """The entries of PIE-Bench's mapping_file.json. Raises EvaluationError naming what is wrong, and in which entry."""
    try:
        entries = [
            PieBenchEntry(
                key,
                text_of(key, entry, "editing_type_id"),
                text_of(key, entry, "image_path"),
                plain(text_of(key, entry, "original_prompt")),
                plain(text_of(key, entry, "editing_prompt")),
                mask_of(key, entry),
            )
            for key, entry in read_entries(file.read_bytes()).items()
        ]
    except OSError as error:
        raise EvaluationError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise EvaluationError(f"{file}: {error}") from error
    if not entries:
        raise EvaluationError(f"{file}: is empty; expected an entry at least")
    return entries


def find_pictures(tree: Path, entries: Sequence[PieBenchEntry]) -> dict[str, Path]:
    """Return the edited images by the id of their entry. A file has the entry's id or image path, in any folder.

    `tree` is what `edict export --format pie_bench` writes for one edit, `entries` are one at least. Raises
    EvaluationError where it is not, or has no picture of any entry, or two of one.
    """
    folder = tree / FOLDER
    if not folder.is_dir():
        edits = sorted(path.parent.name for path in tree.glob(f"*/{FOLDER}"))
        hint = f"; give one of its edits: {', '.join(edits)}" if edits else ""
        raise EvaluationError(f"{tree}: there is no folder {FOLDER} in it, so it is no edit's tree{hint}")
    ids = {stem(entry.image_path): entry.key for entry in entries} | {entry.key: entry.key for entry in entries}
    found: dict[str, Path] = {}
    for file in sorted(file for file in folder.rglob("*") if file.suffix[1:] in EXTENSIONS.values()):
        if (key := find_entry(file.relative_to(folder).with_suffix("").as_posix(), ids)) is None:
            continue
        if key in found:
            raise EvaluationError(f"{folder}: entry {key!r} has several images, {found[key]} and {file}; keep one")
        found[key] = file
    if not found:
        raise EvaluationError(
            f"{folder}: has no picture of any of the {len(entries)} entries; they are to be named after the ids or the "
            f"image paths, as {entries[0].key}.png"
        )
    return found


def read_picture(file: Path) -> tuple[torch.Tensor, bool]:
    """A picture, uint8 [3, 512, 512], and whether it was of another size, and resized (Lanczos).

    Raises EvaluationError where it cannot be read, or is not square, so that the mask would not lie on it.
    """
    try:
        prepared = prepare(file.read_bytes(), PIE_BENCH_SIZE, "center")
    except (OSError, ImageError) as error:
        raise EvaluationError(f"{file}: {error}") from error
    if prepared.width != prepared.height:
        raise EvaluationError(
            f"{file}: is {prepared.width} x {prepared.height} pixels; PIE-Bench's pictures and masks are square"
        )
    pixels = torch.from_numpy(np.array(prepared.image)).permute(2, 0, 1).contiguous()
    return pixels, prepared.width != PIE_BENCH_SIZE


def measure(source: torch.Tensor, target: torch.Tensor, entry: PieBenchEntry, networks: Networks) -> dict[str, float]:
    """The metrics of an edited picture against its source, both uint8 [3, 512, 512]; on [0, 1] where they are errors.

    In the unedited part, both pictures are black where the edit may change them; its metrics are nan where that is
    everywhere. PSNR is in dB, and infinite where nothing differs.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
    from torchmetrics.functional.regression import mean_squared_error

    mask = entry.mask
    part = [(picture / 255 * ~mask)[None] for picture in (source, target)]
    of_part: dict[str, Callable[[], float]] = {
        "psnr_unedit_part": lambda: float(peak_signal_noise_ratio(*part, data_range=1.0)),
        "mse_unedit_part": lambda: float(mean_squared_error(*part)),
        "ssim_unedit_part": lambda: float(structural_similarity_index_measure(*part, data_range=1.0)),
    }
    if (distance := networks.lpips) is not None:
        of_part["lpips_unedit_part"] = lambda: distance(*(picture[0] * 2 - 1 for picture in part))
    measured = {name: float("nan") if mask.all() else metric() for name, metric in of_part.items()}
    if networks.structure_distance is not None:
        measured["structure_distance"] = networks.structure_distance(source, target)
    if (similarity := networks.clip_similarity) is not None:
        measured["clip_similarity_source_image"] = similarity(source, entry.source_prompt)
        measured["clip_similarity_target_image"] = similarity(target, entry.target_prompt)
        measured["clip_similarity_target_image_edit_part"] = similarity(target * mask, entry.target_prompt)
    return {name: measured[name] for name in COLUMNS if name in measured}


def evaluate(
    entries: Sequence[PieBenchEntry], pictures: Mapping[str, Path], images: Path, networks: Networks
) -> tuple[dict[str, dict[str, float]], int]:
    """The metrics of every picture by id, and how many of the pictures and sources were resized.

    `images` is PIE-Bench's folder of sources. Raises EvaluationError where a source or a picture cannot be used.
    """
    edited = [entry for entry in entries if entry.key in pictures]
    for entry in edited:
        if not (images / entry.image_path).is_file():
            raise EvaluationError(
                f"{images}: there is no {entry.image_path}, the source of entry {entry.key!r}; "
                f"give PIE-Bench's {FOLDER}"
            )
    measured, resized = {}, 0
    with Progress("pie-bench", len(edited), "pictures") as progress:
        for entry in edited:
            source, of_other_size = read_picture(images / entry.image_path)
            target, too = read_picture(pictures[entry.key])
            resized += of_other_size + too
            measured[entry.key] = measure(source, target, entry, networks)
            progress.advance(1)
    return measured, resized


def means(entries: Sequence[PieBenchEntry], measured: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """A row of all pictures, and one of each type of edit: `n`, and of each metric the `mean` and of how many (`n`).

    What is nan is left out of a mean.
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
    """What stands over the rows of `means`."""
    return ["edits", "pictures", *(COLUMNS[name][0] for name in COLUMNS if name in row)]


def line(row: Mapping[str, Any]) -> list[object]:
    """A row of `means` as it is printed."""
    kind = row["type"]
    named = f"{kind} {TYPES[int(kind)]}" if kind in map(str, range(len(TYPES))) else kind
    cells = [f"{row[name]['mean'] * factor:.3f}" for name, (_, factor) in COLUMNS.items() if name in row]
    return [named, row["n"], *cells]
