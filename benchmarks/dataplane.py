"""What moving data takes a core: shards indexed and read, pictures decoded and encoded, latents written and read.

`python -m benchmarks.dataplane`. On one thread and a local disk, whose cache holds all of it; each stage is run once a
round, and the figures are medians of rounds. Of two kinds of data:

- shipped: the shipped pictures, 64x64, and pairs that the shipped model inverted
- photo: JPEGs of 1024x768 pixels, which are shipped pictures enlarged, with noise added, prepared at 512 pixels as for
  Stable Diffusion 1; and pairs of 4x64x64 that are drawn with the standard deviations that the shipped pairs have
"""

import io
import tempfile
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean, median
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from benchmarks.record import parser, save
from edict import EDICT, Pair
from jobs.demo import SHARDS
from jobs.evaluation.record import table
from jobs.evaluation.truth import pictures
from pipeline.export.latents import LATENT_FORMATS
from pipeline.io.images import encode, prepare
from pipeline.io.shards import Sample, ShardIndex, index_shard, read_samples, write_shard
from pipeline.store.latents import Latents, read_latents
from pipeline.store.parts import Row, to_parquet, to_table
from pipeline.store.plan import Unit
from pipeline.store.store import Store

FileFormat = Literal["png", "jpeg", "webp"]

NOISE, QUALITY = 6.0, 90  # of a photo: standard deviation, of 255; and of its JPEG
FILES: tuple[FileFormat, ...] = ("png", "jpeg", "webp")
CAPTION = "red heart, noto emoji on a blue background"

Stage = tuple[int, Callable[[], object]]
"""What is done, and to how many."""


def read(index: ShardIndex) -> list[Sample]:
    found = read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries)
    return [sample for sample in found if isinstance(sample, Sample)]


def shipped() -> list[bytes]:
    """The files of the demo's pictures."""
    return [sample.image for file in sorted(SHARDS.glob("*.tar")) for sample in read(index_shard(str(file)))]


def photo(image: Image.Image, chance: np.random.Generator) -> bytes:
    """A JPEG of 1024x768 pixels."""
    large = np.asarray(image.resize((1024, 768), Image.Resampling.BICUBIC)).astype(np.float32)
    noisy = (large + chance.normal(0, NOISE, large.shape)).clip(0, 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "jpeg", quality=QUALITY)
    return buffer.getvalue()


def shard(file: Path, extension: str, images: Sequence[bytes]) -> ShardIndex:
    """A shard of these images and a caption, indexed."""
    samples = ((f"{i:06d}", {extension: image, "txt": CAPTION.encode()}) for i, image in enumerate(images))
    file.write_bytes(write_shard(samples))
    return index_shard(str(file))


def inverted(given: Namespace) -> tuple[Pair, list[Row]]:
    """The pairs of shipped pictures, and what a part says of them beside."""
    model = EDICT.from_pretrained()
    shown = pictures(count=given.rows)
    start = model.encode([picture.image for picture in shown])
    captions = [picture.caption for picture in shown]
    pair = model.invert(start, captions, steps=given.steps, batch_size=given.batch)
    rows = [
        Row(f"{i:06d}", "photos/00000.tar", i, caption, False, digest, digest[::-1], 1024, 768, None, 0)
        for i, (caption, digest) in enumerate(zip(captions, start.digests(), strict=True))
    ]
    return pair, rows


def drawn(pair: Pair, side: int) -> Pair:
    """As many pairs of `side` x `side`, with the standard deviations of the given one's x and x - y."""
    chance = torch.Generator().manual_seed(0)

    def normal(like: torch.Tensor) -> torch.Tensor:
        shape = (*pair.x.shape[:2], side, side)
        return torch.randn(shape, generator=chance, dtype=torch.float64) * like.double().std()

    x = normal(pair.x)
    return replace(pair, x=x.round().long(), y=(x + normal(pair.y - pair.x)).round().long())


def bytes_a_row(latents: Latents, part: int) -> dict[str, float]:
    """A row of a part of so many bytes, and what its pair takes otherwise."""
    values = latents.pair.x[0].numel() * 2
    sizes = {"part": part / len(latents.pair), "raw int32 or float32": 4.0 * values, "raw float16": 2.0 * values}
    exact = torch.stack(latents.pair.to_float(), 1).numpy()
    for dtype in ("float32", "float16"):
        ((_, data),) = LATENT_FORMATS["parquet"](latents, exact.astype(dtype))
        sizes[f"exported as {dtype}"] = len(data) / len(latents.pair)
    return sizes


def stages(
    folder: Path, index: ShardIndex, side: int, pair: Pair, rows: Sequence[Row]
) -> tuple[dict[str, Stage], dict[str, float]]:
    """What a job does to the samples of a shard and to the rows of a part; bytes a sample, and a row."""
    store = Store(str(folder), create=True)
    samples = read(index)
    squares = [prepare(sample.image, side, "center").image for sample in samples]

    def write() -> Unit:
        file = store.put("parts/part.parquet", to_parquet(to_table(rows, pair, {})))
        return Unit("00000000", file.path, 0, 0, len(pair), file.bytes, file.sha256)

    unit = write()
    work: dict[str, Stage] = {
        "index": (len(samples), partial(index_shard, index.url)),
        "index, with digests": (len(samples), partial(index_shard, index.url, digests=True)),
        "read": (len(samples), partial(read, index)),
        "decode, crop, resize": (len(samples), lambda: [prepare(sample.image, side, "center") for sample in samples]),
        "write rows": (len(rows), write),
        "read rows": (len(rows), partial(read_latents, store, unit)),
    }
    for format in FILES:
        work[f"encode {format}"] = len(squares), partial(encoded, squares, format)
    sizes = {"sample": fmean(len(sample.image) for sample in samples)}
    return work, sizes | bytes_a_row(read_latents(store, unit), unit.size)


def encoded(squares: Sequence[Image.Image], format: FileFormat) -> list[bytes]:
    return [encode(square, format) for square in squares]


def rates(work: Mapping[tuple[str, str], Stage], rounds: int) -> dict[tuple[str, str], float]:
    """How many a second, by kind and stage: medians of rounds, in which each is done once."""
    seconds = defaultdict[tuple[str, str], list[float]](list)
    for _ in range(rounds):
        for name, (_, do) in work.items():
            began = time.perf_counter()
            do()
            seconds[name].append(time.perf_counter() - began)
    return {name: count / median(seconds[name]) for name, (count, _) in work.items()}


def main() -> None:
    arguments = parser(__doc__)
    arguments.set_defaults(threads=1)
    arguments.add_argument("--samples", type=int, default=1_000, help="of the shipped kind")
    arguments.add_argument("--photos", type=int, default=64)
    arguments.add_argument("--rows", type=int, default=64, help="of a part")
    arguments.add_argument("--steps", type=int, default=10, help="of the inversion of the shipped pairs")
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    pa.set_cpu_count(given.threads)
    chance = np.random.default_rng(0)
    photos = [photo(picture.image, chance) for picture in pictures(count=given.photos)]
    pair, rows = inverted(given)
    work: dict[tuple[str, str], Stage] = {}
    sizes: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, extension, images, side, pairs in (
            ("shipped", "png", list(islice(cycle(shipped()), given.samples)), 64, pair),
            ("photo", "jpg", photos, 512, drawn(pair, 64)),
        ):
            index = shard(Path(folder, f"{kind}.tar"), extension, images)
            some, sizes[kind] = stages(Path(folder, kind), index, side, pairs, rows)
            work |= {(kind, stage): what for stage, what in some.items()}
        found = rates(work, given.rounds)
    names = list(dict.fromkeys(stage for _, stage in work))
    lines = [
        [
            stage,
            *(f"{found[kind, stage]:,.0f}" for kind in sizes),
            *(f"{found[kind, stage] * 3600:,.0f}" for kind in sizes),
        ]
        for stage in names
    ]
    print(table(("a core", *(f"{kind}, a second" for kind in sizes), *(f"{kind}, an hour" for kind in sizes)), lines))
    print(table(("bytes", *sizes), [[name, *(f"{of[name]:,.0f}" for of in sizes.values())] for name in sizes["photo"]]))
    per_second = {kind: {stage: found[kind, stage] for stage in names} for kind in sizes}
    print(f"\nwritten to {save('dataplane', given, per_second=per_second, bytes=sizes)}")


if __name__ == "__main__":
    main()
