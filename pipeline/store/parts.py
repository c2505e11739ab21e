"""Convert noise pairs to the Parquet rows of parts, and back."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from edict.lattice import LatticeOverflow, largest
from edict.samplers import with_defaults
from edict.schedule import Schedule
from schemas.fingerprint import StoredSchedule
from schemas.latents import Footer, latents_schema, read_footer

if TYPE_CHECKING:
    import torch

    from edict.pair import Pair

ROW_GROUP = 64
STATE_LIMIT = 2**31  # the states of a part are int32


@dataclass(frozen=True)
class Row:
    """The columns of one row of a part (schemas.latents), except for those of its noise pair."""

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


def overflows(pair: Pair) -> dict[int, LatticeOverflow]:
    """Return the samples whose states do not fit into int32, by their index, each with its error."""
    extremes = largest(pair.x).maximum(largest(pair.y)).tolist()
    return {
        i: LatticeOverflow(value, STATE_LIMIT, pair.bits) for i, value in enumerate(extremes) if value >= STATE_LIMIT
    }


def to_table(rows: Sequence[Row], pair: Pair, fingerprint: dict[str, Any]) -> pa.Table:
    """Return N rows and the noise pair of N images as a table of schemas.latents.

    The pair must have no `overflows`. `fingerprint` is that of job.json, of any format.
    """
    scale_x, scale_y = pair.scales
    footer = Footer(
        scale=scale_x / 2.0**pair.bits,
        scale_y=scale_y / 2.0**pair.bits,
        bits=pair.bits,
        alphas_cumprod=pair.schedule.alpha(pair.position),
        batch_size=pair.batch_size,
        position=pair.position,
        sampling=pair.sampling,
        schedule=to_stored(pair.schedule),
    )
    columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in Row.__dataclass_fields__}
    columns |= {
        "x": _integers(pair.x),
        "y": _integers(pair.y),
        "drift": pair.drift().tolist(),
        "std": pair.std().tolist(),
    }
    schema = latents_schema(pair.x.shape[1:], fingerprint, footer)
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def to_stored(schedule: Schedule) -> StoredSchedule:
    """Return a schedule in its stored form."""
    sigmas = None if schedule.sigmas is None else list(schedule.sigmas)
    return StoredSchedule(
        timesteps=list(schedule.timesteps), alphas_cumprod=list(schedule.alphas_cumprod), sigmas=sigmas
    )


def from_stored(schedule: StoredSchedule) -> Schedule:
    """Return a schedule from its stored form."""
    sigmas = None if schedule.sigmas is None else tuple(schedule.sigmas)
    return Schedule(tuple(schedule.timesteps), tuple(schedule.alphas_cumprod), sigmas)


def to_parquet(table: pa.Table, encoding: str = "BYTE_STREAM_SPLIT", row_group_size: int = ROW_GROUP) -> bytes:
    """Return a Parquet file of a table, compressed with zstd and with page checksums. `encoding` is that of x and y."""
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=row_group_size,
        compression="zstd",
        compression_level=1,
        use_dictionary=["shard"],
        column_encoding={
            _value_path(table.schema.field(name)): encoding for name in ("x", "y") if name in table.column_names
        },
        write_page_checksum=True,
    )
    return buffer.getvalue()


def _value_path(field: pa.Field) -> str:
    """Return the path of the values in a field of nested lists, as Parquet names it."""
    path, kind = str(field.name), field.type
    while isinstance(kind, pa.FixedSizeListType):
        path, kind = f"{path}.list.element", kind.value_type
    return path


def to_pair(table: pa.Table) -> Pair:
    """Return the noise pair of the N rows of a part."""
    from edict.pair import Pair

    footer = read_footer(table.schema.metadata)
    schedule = from_stored(footer.schedule)
    states = _states(table["x"]), _states(table["y"])
    settings = with_defaults(footer.sampling, schedule.num_steps)
    return Pair(*states, schedule, footer.position, settings, footer.batch_size)


def to_nested_lists(states: NDArray[Any]) -> pa.Array:
    """Return an array [N, ...] as N nested lists of fixed sizes."""
    array: pa.Array = pa.array(states.ravel())
    for length in reversed(states.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, length)
    return array


def _integers(states: torch.Tensor) -> pa.Array:
    return to_nested_lists(states.cpu().numpy().astype(np.int32))


def _states(column: pa.ChunkedArray) -> torch.Tensor:
    import torch

    array = column.combine_chunks()
    shape = [len(array)]
    while isinstance(array.type, pa.FixedSizeListType):
        shape.append(array.type.list_size)
        array = array.flatten()
    return torch.from_numpy(array.to_numpy(zero_copy_only=False).astype(np.int64)).reshape(shape)
