"""Rates of the stages of a job that move data."""

import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean, median

import pyarrow as pa
import torch

from benchmarks.dataplane.data import FILES, SIDE, encode_all, enlarged, inverted, new_store, photos, shard
from benchmarks.harness import alternate, program, read, save, seconds, shipped_samples, show
from edict import Pair
from pipeline.export.latents import LATENT_FORMATS
from pipeline.io.images import prepare
from pipeline.io.shard_index import ShardIndex, index_shard
from pipeline.store.latents import Latents, read_latents
from pipeline.store.parts import Row, to_parquet, to_table
from pipeline.store.plan import Unit

Stage = tuple[int, Callable[[], object]]
"""A function, and the number of samples or rows that it processes."""


def bytes_per_row(latents: Latents, part: int) -> dict[str, float]:
    """Return the size of a row in a part of `part` bytes, and in other formats."""
    values = latents.pair.x[0].numel() * 2
    sizes = {"part": part / len(latents.pair), "raw int32 or float32": 4.0 * values, "raw float16": 2.0 * values}
    exact = torch.stack(latents.pair.to_float(), 1).numpy()
    for dtype in ("float32", "float16"):
        ((_, data),) = LATENT_FORMATS["parquet"](latents, exact.astype(dtype))
        sizes[f"exported as {dtype}"] = len(data) / len(latents.pair)
    return sizes


def job_stages(
    folder: Path, index: ShardIndex, side: int, pair: Pair, rows: Sequence[Row]
) -> tuple[dict[str, Stage], dict[str, float]]:
    """Return the stages of a job over the samples of a shard and the rows of a part, and bytes per sample and row."""
    store, samples = new_store(str(folder), 1), read(index)
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
        **{f"encode {format}": (len(squares), partial(encode_all, squares, format)) for format in FILES},
    }
    sizes = {"sample": fmean(len(sample.image) for sample in samples)}
    return work, sizes | bytes_per_row(read_latents(store, unit), unit.size)


@program(batch=16, threads=1, samples=1_000, photos=64, rows=64, steps=10, rounds=5)
def stages(given: Namespace) -> None:
    """Measure the rate of each stage on one core. The data is in the cache of a local disk."""
    pa.set_cpu_count(given.threads)
    images = [sample.image for sample in shipped_samples()]
    pair, rows = inverted(given)
    with tempfile.TemporaryDirectory() as folder:
        small = shard(Path(folder, "shipped.tar"), "png", list(islice(cycle(images), given.samples)))
        large = shard(Path(folder, "photo.tar"), "jpg", photos(given.photos))
        work, sizes = dict[tuple[str, str], Stage](), {}
        for kind, index, side, pairs in (("shipped", small, 64, pair), ("photo", large, SIDE, enlarged(pair, 64))):
            stages_of_kind, sizes[kind] = job_stages(Path(folder, kind), index, side, pairs, rows)
            work |= {(kind, stage): what for stage, what in stages_of_kind.items()}
        found = alternate(given.rounds, {name: partial(seconds, call) for name, (_, call) in work.items()})
    per_second: dict[str, dict[str, float]] = {kind: {} for kind in sizes}
    for (kind, stage), taken in found.items():
        per_second[kind][stage] = work[kind, stage][0] / median(taken)
    lines = [
        {"stage": stage}
        | {f"{kind}, per second": rates[stage] for kind, rates in per_second.items()}
        | {f"{kind}, per hour": 3600 * rates[stage] for kind, rates in per_second.items()}
        for stage in per_second["photo"]
    ]
    show(lines, {"stage": "stage"} | {name: f"{name}:,.0f" for name in lines[0] if name != "stage"})
    lines = [
        {"bytes": name} | {kind: kind_sizes[name] for kind, kind_sizes in sizes.items()} for name in sizes["photo"]
    ]
    show(lines, {"bytes": "bytes"} | {kind: f"{kind}:,.0f" for kind in sizes})
    save("dataplane", given, per_second=per_second, bytes=sizes)
