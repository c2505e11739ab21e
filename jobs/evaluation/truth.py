"""The shipped held-out images, and the edits whose ground truth is among them."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from jobs.demo import KINDS, SECOND, SHARDS, SIZE
from jobs.evaluation.errors import EvaluationError
from pipeline.io.images import ImageError, prepare
from pipeline.io.samples import Sample, read_samples
from pipeline.io.shard_index import index_shard

ALIKE = 8  # levels of 255; pixels that differ by at most this are equal, because file formats cause such differences


@dataclass(frozen=True)
class CaptionedImage:
    """A square RGB image and its caption."""

    image: Image.Image
    caption: str


@dataclass(frozen=True)
class ReferenceEdit:
    """An edit of `source` with a known result: `target`, exact to the pixel.

    `drawings` names the two drawings of the edit. Edits with the same `drawings` are not independent, because they show
    the same two drawings on several backgrounds.
    """

    kind: str
    source: CaptionedImage
    target: CaptionedImage
    drawings: str


def captioned_images(
    shards: Iterable[str] | None = None, count: int | None = None, size: int = SIZE
) -> list[CaptionedImage]:
    """Return the first `count` images of shards, in order, cropped and resized to `size` x `size` pixels.

    Without `shards`, they are those of the demo. Without `count`, all images are returned.

    Raises:
        EvaluationError: A sample cannot be read, or there is none.
        ShardError: A location is not a shard.
    """
    images = [image for _, image in islice(_read(_files(SHARDS) if shards is None else shards, size), count)]
    if not images:
        raise EvaluationError("the input has no images. Give shards that have some")
    return images


def reference_edits(shards: Iterable[str] | None = None) -> list[ReferenceEdit]:
    """Return every edit of shards (by default all shipped ones), in order. Each pair of samples gives one edit.

    The source is the earlier sample of the pair.
    """
    read = {
        sample.key: (image, json.loads(sample.json or "{}"))
        for sample, image in _read(_files(SHARDS) + _files(SECOND) if shards is None else shards, SIZE)
    }
    drawings: dict[str, str] = {}  # the name of the only pair that has a drawing, by drawing
    for _, metadata in read.values():
        for edit in metadata["edits"]:
            if edit["kind"] != "background":
                ends = sorted(_drawing(one) for one in (metadata, read[edit["target_key"]][1]))
                drawings[_drawing(metadata)] = " / ".join(ends)
    return [
        ReferenceEdit(edit["kind"], image, read[edit["target_key"]][0], drawings[_drawing(metadata)])
        for key, (image, metadata) in read.items()
        for edit in metadata["edits"]
        if key < edit["target_key"]
    ]


def split(edits: Sequence[ReferenceEdit], tune: int) -> tuple[list[ReferenceEdit], list[ReferenceEdit]]:
    """Split edits into tuning edits and test edits that have no drawing in common.

    The tuning edits are one edit for each of the first `tune` pairs of drawings of every kind. Their background edits
    are of the same drawings.
    """
    tuning = list[ReferenceEdit]()
    for kind in KINDS:
        if kind != "background":
            tuning += _first(tune, [edit for edit in edits if edit.kind == kind])
    names = {edit.drawings for edit in tuning}
    tuning += _first(tune, [edit for edit in edits if edit.kind == "background" and edit.drawings in names])
    return tuning, [edit for edit in edits if edit.drawings not in names]


def _first(count: int, edits: Sequence[ReferenceEdit]) -> list[ReferenceEdit]:
    """Return the first edit of each of the first `count` pairs of drawings."""
    first_of: dict[str, ReferenceEdit] = {}
    for edit in edits:
        first_of.setdefault(edit.drawings, edit)
    return list(first_of.values())[:count]


def _drawing(metadata: dict[str, str]) -> str:
    return " ".join(metadata[name] for name in ("vendor", "name", "tone"))


def _files(folder: Path) -> list[str]:
    return [str(file) for file in sorted(folder.glob("*.tar"))]


def _read(shards: Iterable[str], size: int) -> Iterator[tuple[Sample, CaptionedImage]]:
    for url in shards:
        index = index_shard(url)
        for entry in index.entries:
            (sample,) = read_samples(index.url, size=index.size, etag=index.etag, entries=[entry])
            if not isinstance(sample, Sample):
                raise EvaluationError(
                    f"{url}: sample {sample.key!r}: {sample.error}: {sample.message}. Leave the sample out"
                )
            try:
                image = prepare(sample.image, size, "center").image
            except ImageError as error:
                raise EvaluationError(f"{url}: sample {sample.key!r}: {error}. Leave the sample out") from error
            yield sample, CaptionedImage(image, sample.caption)


def squared_error(a: Sequence[Image.Image], b: Sequence[Image.Image]) -> np.ndarray:
    """Return the mean squared error of each of N images, with pixels on [-1, 1]: float64 [N]."""
    pixels = [np.stack([np.asarray(image, np.float64) for image in images]) / 127.5 - 1 for images in (a, b)]
    error: np.ndarray = np.square(pixels[0] - pixels[1]).mean((1, 2, 3))
    return error


def outside_error(images: Sequence[Image.Image], edits: Sequence[ReferenceEdit]) -> np.ndarray:
    """Return the mean squared error to the truth over the pixels where truth and source agree, float64 [N].

    These pixels should not change. Two pixels agree if every channel is within ALIKE. If none agrees, the error is nan.
    """
    errors = []
    for image, edit in zip(images, edits, strict=True):
        pixels, source, target = (np.asarray(one, np.float64) for one in (image, edit.source.image, edit.target.image))
        alike = (np.abs(source - target) <= ALIKE).all(-1)
        errors.append(np.square((pixels - target)[alike] / 127.5).mean() if alike.any() else np.nan)
    return np.array(errors)
