"""The held-out pictures of the demo shards, and which of them is the ground truth of which edit."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jobs.demo.build import SHARDS
from pipeline.shards import Sample, index_shard, read_samples


@dataclass(frozen=True)
class Captioned:
    """A picture, RGB 64x64, and its caption."""

    image: Image.Image
    caption: str


@dataclass(frozen=True)
class Edit:
    """`source` as an edit of `kind` should turn it out is `target`, to the pixel."""

    kind: str
    source: Captioned
    target: Captioned


def pictures(shards: Sequence[Path] | None = None) -> list[Captioned]:
    """Every picture of the shards (None: those shipped), in order. Raises ValueError at a sample that is not sound."""
    return [picture for picture, _ in _read(shards).values()]


def truth(shards: Sequence[Path] | None = None) -> list[Edit]:
    """Every pair once, from the earlier sample to the later, in order: a pair's two directions are not independent."""
    read = _read(shards)
    return [
        Edit(edit["kind"], picture, read[edit["target_key"]][0])
        for key, (picture, metadata) in read.items()
        for edit in metadata["edits"]
        if key < edit["target_key"]
    ]


def _read(shards: Sequence[Path] | None) -> dict[str, tuple[Captioned, dict]]:
    found = {}
    for file in sorted(SHARDS.glob("*.tar")) if shards is None else shards:
        index = index_shard(str(file))
        for sample in read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries):
            if not isinstance(sample, Sample) or sample.json is None:
                raise ValueError(f"{file}: not sound at {sample}; build the demo shards anew")
            with Image.open(io.BytesIO(sample.image)) as image:
                picture = Captioned(image.convert("RGB"), sample.caption)
            found[sample.key] = picture, json.loads(sample.json)
    return found


def squared_error(a: Sequence[Image.Image], b: Sequence[Image.Image]) -> np.ndarray:
    """The mean squared error of each of N pictures on [-1, 1] pixels, float64 [N]."""
    pixels = [np.stack([np.asarray(image, np.float64) for image in images]) / 127.5 - 1 for images in (a, b)]
    return np.square(pixels[0] - pixels[1]).mean((1, 2, 3))
