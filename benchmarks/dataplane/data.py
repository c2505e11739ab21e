"""The data of the measurements: shipped images, and photos that are made from them.

- shipped: the shipped images of 64x64 pixels, and pairs that the shipped model inverted
- photo: JPEGs of 1024x768 pixels, which are shipped images enlarged and with noise, prepared at 512 pixels as for
  Stable Diffusion 1; and pairs of 4x64x64, drawn with the standard deviations of the shipped pairs
"""

import io
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from edict import EDICT, Pair
from jobs.evaluation.truth import captioned_images
from pipeline.io.images import encode
from pipeline.io.shard_index import ShardIndex, index_shard
from pipeline.io.shard_writer import write_shard
from pipeline.messages import Machine
from pipeline.plan.job import new_record, open_job
from pipeline.store.parts import Row
from pipeline.store.plan import Unit, write_units
from pipeline.store.store import Store

FileFormat = Literal["png", "jpeg", "webp"]
FILES: tuple[FileFormat, ...] = ("png", "jpeg", "webp")
NOISE, QUALITY = 6.0, 90  # a photo's noise, a standard deviation in levels of 255, and its JPEG quality
SIDE = 512  # pixels at which photos are prepared
CAPTION = "red heart, noto emoji on a blue background"


def photo(image: Image.Image, random: np.random.Generator) -> bytes:
    """Return a JPEG of 1024x768 pixels."""
    large = np.asarray(image.resize((1024, 768), Image.Resampling.BICUBIC)).astype(np.float32)
    noisy = (large + random.normal(0, NOISE, large.shape)).clip(0, 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "jpeg", quality=QUALITY)
    return buffer.getvalue()


def photos(count: int) -> list[bytes]:
    random = np.random.default_rng(0)
    return [photo(image.image, random) for image in captioned_images(count=count)]


def shard(file: Path, extension: str, images: Sequence[bytes]) -> ShardIndex:
    """Write a shard of these images with a caption, and return its index."""
    samples = ((f"{i:06d}", {extension: image, "txt": CAPTION.encode()}) for i, image in enumerate(images))
    file.write_bytes(write_shard(samples))
    return index_shard(str(file))


def inverted(given: Namespace) -> tuple[Pair, list[Row]]:
    """Return the pairs of shipped images, and the other values of their rows."""
    model = EDICT.from_pretrained()
    shown = captioned_images(count=given.rows)
    captions, start = [image.caption for image in shown], model.encode([image.image for image in shown])
    pair = model.invert(start, captions, steps=given.steps, batch_size=given.batch)
    rows = [
        Row(f"{i:06d}", "photos/00000.tar", i, caption, False, digest, digest[::-1], 1024, 768, None, 0)
        for i, (caption, digest) in enumerate(zip(captions, start.digests(), strict=True))
    ]
    return pair, rows


def enlarged(pair: Pair, side: int) -> Pair:
    """Draw as many pairs of `side` x `side`, with the standard deviations of the pair's x and x - y."""
    generator = torch.Generator().manual_seed(0)

    def normal(like: torch.Tensor) -> torch.Tensor:
        shape = (*pair.x.shape[:2], side, side)
        return torch.randn(shape, generator=generator, dtype=torch.float64) * like.double().std()

    x = normal(pair.x)
    return replace(pair, x=x.round().long(), y=(x + normal(pair.y - pair.x)).round().long())


def encode_all(images: Sequence[Image.Image], format: FileFormat) -> list[bytes]:
    return [encode(image, format) for image in images]


def new_store(location: str, units: int) -> Store:
    """Return a new store of a job with units that no worker has done."""
    store = Store(location, create=True)
    open_job(store, new_record("invert", {}, {}, Machine("cpu", 1, 0)))
    write_units(store, [Unit(f"{i:08d}", "a.tar", 0, 0, 1, 1, None) for i in range(units)])
    return store
