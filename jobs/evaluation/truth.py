"""The shipped pictures that were held out, and which of them is the ground truth of which edit."""

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

ALIKE = 8  # of 255: what the file formats of two drawings may differ by where nothing was drawn otherwise


@dataclass(frozen=True)
class Captioned:
    """A picture, an RGB square, and its caption."""

    image: Image.Image
    caption: str


@dataclass(frozen=True)
class ReferenceEdit:
    """`source` as an edit of `kind` should turn it out is `target`, to the pixel.

    Edits of one `drawings`, a name, are not independent: they are of the same two drawings on several backgrounds.
    """

    kind: str
    source: Captioned
    target: Captioned
    drawings: str


def pictures(shards: Iterable[str] | None = None, count: int | None = None, size: int = SIZE) -> list[Captioned]:
    """The first `count` pictures (None: all) of shards (None: the demo's), in order, as `size` x `size` pixels.

    Raises EvaluationError at a sample that is not sound or where there is none, ShardError for what is no shard.
    """
    found = [picture for _, picture in islice(_read(_files(SHARDS) if shards is None else shards, size), count)]
    if not found:
        raise EvaluationError("the input has no picture; give shards that have some")
    return found


def truth(shards: Iterable[str] | None = None) -> list[ReferenceEdit]:
    """Every edit of shards (None: all shipped) in one direction, from the earlier sample to the later, in order."""
    read = {
        sample.key: (picture, json.loads(sample.json or "{}"))
        for sample, picture in _read(_files(SHARDS) + _files(SECOND) if shards is None else shards, SIZE)
    }
    drawings: dict[str, str] = {}  # each drawing is in one pair of two
    for _, metadata in read.values():
        for edit in metadata["edits"]:
            if edit["kind"] != "background":
                ends = sorted(_drawing(one) for one in (metadata, read[edit["target_key"]][1]))
                drawings[_drawing(metadata)] = " / ".join(ends)
    return [
        ReferenceEdit(edit["kind"], picture, read[edit["target_key"]][0], drawings[_drawing(metadata)])
        for key, (picture, metadata) in read.items()
        for edit in metadata["edits"]
        if key < edit["target_key"]
    ]


def split(edits: Sequence[ReferenceEdit], tune: int) -> tuple[list[ReferenceEdit], list[ReferenceEdit]]:
    """Edits to choose on, one each of the first `tune` drawings of every kind, and to test on: all of other drawings.

    Edits of the background are of those drawings, too, the first `tune`.
    """
    tuning = list[ReferenceEdit]()
    for kind in KINDS:
        if kind != "background":
            tuning += _first(tune, [edit for edit in edits if edit.kind == kind])
    names = {edit.drawings for edit in tuning}
    tuning += _first(tune, [edit for edit in edits if edit.kind == "background" and edit.drawings in names])
    return tuning, [edit for edit in edits if edit.drawings not in names]


def _first(count: int, edits: Sequence[ReferenceEdit]) -> list[ReferenceEdit]:
    """The first edits, one of each drawings."""
    of: dict[str, ReferenceEdit] = {}
    for edit in edits:
        of.setdefault(edit.drawings, edit)
    return list(of.values())[:count]


def _drawing(metadata: dict[str, str]) -> str:
    return " ".join(metadata[name] for name in ("vendor", "name", "tone"))


def _files(folder: Path) -> list[str]:
    return [str(file) for file in sorted(folder.glob("*.tar"))]


def _read(shards: Iterable[str], size: int) -> Iterator[tuple[Sample, Captioned]]:
    for url in shards:
        index = index_shard(url)
        for entry in index.entries:
            (sample,) = read_samples(index.url, size=index.size, etag=index.etag, entries=[entry])
            if not isinstance(sample, Sample):
                raise EvaluationError(f"{url}: sample {sample.key!r}: {sample.error}: {sample.message}; leave it out")
            try:
                image = prepare(sample.image, size, "center").image
            except ImageError as error:
                raise EvaluationError(f"{url}: sample {sample.key!r}: {error}; leave it out") from error
            yield sample, Captioned(image, sample.caption)


def squared_error(a: Sequence[Image.Image], b: Sequence[Image.Image]) -> np.ndarray:
    """The mean squared error of each of N pictures on [-1, 1] pixels, float64 [N]."""
    pixels = [np.stack([np.asarray(image, np.float64) for image in images]) / 127.5 - 1 for images in (a, b)]
    return np.square(pixels[0] - pixels[1]).mean((1, 2, 3))


def outside_error(images: Sequence[Image.Image], edits: Sequence[ReferenceEdit]) -> np.ndarray:
    """The mean squared error to the truth where it agrees with the source, float64 [N]; nan where it never does.

    It is the change outside what should change: places agree that are within ALIKE in each channel.
    """
    errors = []
    for image, edit in zip(images, edits, strict=True):
        drawn, source, target = (np.asarray(one, np.float64) for one in (image, edit.source.image, edit.target.image))
        alike = (np.abs(source - target) <= ALIKE).all(-1)
        errors.append(np.square((drawn - target)[alike] / 127.5).mean() if alike.any() else np.nan)
    return np.array(errors)
