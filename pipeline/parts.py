"""Parts: latent pairs as Parquet rows, and back."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edict.lattice import LatticeOverflow, largest
from edict.samplers import SAMPLERS, parameters, resolved, sampling
from edict.schedule import Schedule
from schemas.latents import FINGERPRINT, NOISE, latents_schema

if TYPE_CHECKING:
    import torch

    from edict.pair import Pair

ROW_GROUP = 64
STORED = 2**31  # the states of a part are int32


@dataclass(frozen=True)
class Row:
    """What a part says of one sample beside its pair; the fields of schemas.latents."""

    key: str
    shard: str
    index: int
    caption: str
    caption_truncated: bool
    digest: str
    image_sha256: str
    width: int
    height: int
    json: str | None
    slot: int


def storable(pair: Pair) -> dict[int, LatticeOverflow]:
    """The samples whose states do not fit a part, each with its error."""
    extremes = largest(pair.x).maximum(largest(pair.y)).tolist()
    return {i: LatticeOverflow(value, STORED, pair.bits) for i, value in enumerate(extremes) if value >= STORED}


def to_table(rows: Sequence[Row], pair: Pair, fingerprint: dict[str, Any]) -> pa.Table:
    """Rows and their noise pair, N each, as a table of schemas.latents. The pair must be `storable`."""
    _, channels, height, width = pair.x.shape
    of_x, of_y = pair.scales
    noise: dict[str, Any] = {
        "scale": of_x / 2.0**pair.bits,
        "scale_y": of_y / 2.0**pair.bits,
        "bits": pair.bits,
        "alphas_cumprod": pair.schedule.alpha(pair.position),
        "sampler": pair.sampling.name,
        **{name: str(value) for name, value in parameters(pair.sampling).items()},
        "steps": pair.sampling.steps,
        "strength": pair.sampling.strength,
        "guidance_scale": pair.sampling.guidance_scale,
        "batch_size": pair.batch_size,
        "position": pair.position,
        "timesteps": pair.schedule.timesteps,
        "schedule": pair.schedule.alphas_cumprod,
    }
    if pair.schedule.sigmas is not None:
        noise["sigmas"] = pair.schedule.sigmas
    if pair.sampling.guidance_interval is not None:
        noise["guidance_interval"] = pair.sampling.guidance_interval
    columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in Row.__dataclass_fields__}
    columns |= {
        "x": _integers(pair.x),
        "y": _integers(pair.y),
        "drift": pair.drift().tolist(),
        "std": pair.std().tolist(),
    }
    schema = latents_schema(channels, height, width, fingerprint, noise)
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def to_parquet(table: pa.Table, encoding: str = "BYTE_STREAM_SPLIT", row_group_size: int = ROW_GROUP) -> bytes:
    """Return a Parquet file: zstd, page checksums, `row_group_size` rows per group; `encoding` is that of x and y."""
    buffer = io.BytesIO()
    states = {f"{name}.list.element.list.element.list.element": encoding for name in ("x", "y")}
    pq.write_table(
        table,
        buffer,
        row_group_size=row_group_size,
        compression="zstd",
        compression_level=1,
        use_dictionary=["shard"],
        column_encoding=states,
        write_page_checksum=True,
    )
    return buffer.getvalue()


def to_pair(table: pa.Table) -> Pair:
    """Return the noise pair of a part's rows."""
    from edict.pair import Pair

    noise = json.loads(table.schema.metadata[NOISE])
    if "steps" not in noise:  # parts of earlier versions have it in the fingerprint
        made = json.loads(table.schema.metadata[FINGERPRINT])
        noise |= {"steps": made["steps"], "strength": made["strength"]}
    name = noise.get("sampler", "edict")  # the only one that there was when it was not named
    settings = sampling(
        name=name,
        steps=noise["steps"],
        strength=float(noise["strength"]),
        guidance_scale=float(noise["guidance_scale"]),
        guidance_interval=noise.get("guidance_interval"),
        bits=noise["bits"],
        **{weight: float(Fraction(noise[weight])) for weight in SAMPLERS[name].parameters},
    )
    schedule = Schedule(
        tuple(noise["timesteps"]), tuple(noise["schedule"]), tuple(noise["sigmas"]) if "sigmas" in noise else None
    )
    states = _states(table["x"]), _states(table["y"])
    return Pair(*states, schedule, noise["position"], resolved(settings, schedule.num_steps), noise["batch_size"])


def nested(states: NDArray[Any]) -> pa.Array:
    """[N, C, H, W] as N nested lists of fixed sizes."""
    array: pa.Array = pa.array(states.ravel())
    for length in reversed(states.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, length)
    return array


def _integers(states: torch.Tensor) -> pa.Array:
    return nested(states.cpu().numpy().astype(np.int32))


def _states(column: pa.ChunkedArray) -> torch.Tensor:
    import torch

    array = column.combine_chunks()
    shape = [len(array)]
    while isinstance(array.type, pa.FixedSizeListType):
        shape.append(array.type.list_size)
        array = array.flatten()
    return torch.from_numpy(array.to_numpy(zero_copy_only=False).astype(np.int64)).reshape(shape)
