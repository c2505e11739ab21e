"""What the bits of the lattice cost and buy: the bytes of a stored pair, and what coarser integers change."""

import io
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.exactness import differing
from benchmarks.sweep.noise import spread
from edict import EDICT, Pair
from edict.inversion import BITS, Faults
from edict.lattice import to_lattice
from edict.samplers import sampling
from jobs.evaluation.truth import ReferenceEdit, squared_error
from pipeline.store.parts import Row, nested, storable, to_parquet, to_table
from schemas.sampling import executed

SWEPT = (4, 6, 8, 10, 12, 14, 16, 20)
FINEST = 30  # bits of what noise and edits are compared with
UNROUNDED = 40  # bits of the clean latents that count as not rounded
HEAD = (
    "sampler",
    "bits",
    "bytes of x and y",
    "drift",
    "std",
    "noise, rms to 30 bits",
    "picture, mse to unrounded",
    "edit, mse to 30 bits",
    "edit, mse to the truth",
    "log2 of the largest integer",
    "integers differing",
    "left the lattice",
)


class Trip(NamedTuple):
    """A clean end, its noise, the edits that are made from it, and what the way back found."""

    start: Pair
    noise: Pair
    pictures: list[Image.Image]
    integers_differing: int
    faults: Faults


def tries() -> list[dict[str, Any]]:
    return [{"sampler": sampler} for sampler in ("edict", "bdia", "obelm")]


def measure(
    model: EDICT, edits: Sequence[ReferenceEdit], one: dict[str, Any], given: Namespace
) -> list[dict[str, Any]]:
    """Each number of bits, in one batch, over the samples that stay on the lattice; and of EDICT the pair as floats.

    `noise_rms` is the distance of both states, in the model's scale, to those of FINEST bits, `edit_mse` that of the
    edited picture to the one of FINEST bits, `picture_mse` that of the decoded clean end to the unrounded one:
    means of squares on [-1, 1] pixels.
    """
    images, targets = [edit.source.image for edit in edits], [edit.target.image for edit in edits]
    unrounded = model.decode(model.encode(images, bits=UNROUNDED).to_float()[0])
    finest = round_trip(model, edits, FINEST, one["sampler"], given)
    rows: list[dict[str, Any]] = []
    for bits in SWEPT:
        made = round_trip(model, edits, bits, one["sampler"], given)
        left = {**finest.faults, **made.faults, **storable(made.noise)}
        row = {
            **one,
            "bits": bits,
            "integers_differing": made.integers_differing,
            "left_the_lattice": len(left),
            **spread(made.noise, left),
        }
        if sound := [i for i in range(len(edits)) if i not in left]:
            off = torch.stack(made.noise[sound].to_float()) - torch.stack(finest.noise[sound].to_float())
            row |= {
                "bytes": stored_bytes(part(made.noise[sound])),
                "noise_rms": float(off.square().mean().sqrt()),
                "picture_mse": squared_error(model.decode(made.start.to_float()[0]), unrounded)[sound].mean(),
                "edit_mse": squared_error(made.pictures, finest.pictures)[sound].mean(),
                "truth_mse": squared_error(made.pictures, targets)[sound].mean(),
            }
        rows.append(row)
        if one["sampler"] == "edict" and bits == BITS:
            rows += [as_floats(made.noise, dtype) for dtype in (torch.float32, torch.float16)]
    return rows


def round_trip(model: EDICT, edits: Sequence[ReferenceEdit], bits: int, sampler: str, given: Namespace) -> Trip:
    """Inversion to the noise and regeneration, from which the edits branch off at their strength."""
    sources, targets = [edit.source.caption for edit in edits], [edit.target.caption for edit in edits]
    start = model.encode([edit.source.image for edit in edits], bits=bits)
    start = model.prepare(start, sampling(steps=given.steps, strength=1.0, guidance_scale=given.guidance, name=sampler))
    noise, lost = model.integrate(start, sources, 0)
    branch, more = model.integrate(noise, sources, start.position - executed(given.steps, given.strength))
    again, and_more = model.integrate(branch, sources, start.position)
    edited, met = model.integrate(branch, targets, start.position)
    faults = {**lost, **more, **and_more, **met}
    return Trip(start, noise, model.decode(edited.to_float()[0]), differing(again, start, faults), faults)


def as_floats(noise: Pair, dtype: torch.dtype) -> dict[str, Any]:
    """What the same pair takes as floats of `dtype`, and how many of its integers rounding does not bring back."""
    table, wrong = part(noise), 0
    for name, states, scale, real in zip(("x", "y"), (noise.x, noise.y), noise.scales, noise.to_float(), strict=True):
        floats = real.to(dtype)
        column = nested(floats.numpy())
        field = pa.field(name, column.type, nullable=False)
        table = table.set_column(table.schema.get_field_index(name), field, column)
        wrong += int((to_lattice(floats, scale, noise.bits) != states).sum())
    stored = str(dtype).removeprefix("torch.")
    return {"sampler": noise.sampling.name, "bits": stored, "bytes": stored_bytes(table), "integers_differing": wrong}


def part(noise: Pair) -> pa.Table:
    """A part of a store that says nothing of its samples beside the pair."""
    return to_table([Row("", "", 0, "", False, "", "", 0, 0, None, 0)] * len(noise), noise, {})


def stored_bytes(table: pa.Table) -> float:
    """Bytes a row of the columns x and y in a part, encoded and compressed."""
    group = pq.ParquetFile(io.BytesIO(to_parquet(table))).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    states = [column for column in columns if column.path_in_schema.split(".")[0] in ("x", "y")]
    return float(sum(column.total_compressed_size for column in states)) / table.num_rows


def line(row: dict[str, Any]) -> list[object]:
    """A row as it is printed."""
    forms = {
        "bytes": ".0f",
        "drift": ".4f",
        "std": ".4f",
        "noise_rms": ".1e",
        "picture_mse": ".1e",
        "edit_mse": ".1e",
        "truth_mse": ".4f",
        "log2_largest": ".1f",
    }
    figures = ["" if row.get(name) is None else format(row[name], form) for name, form in forms.items()]
    return [row["sampler"], row["bits"], *figures, row["integers_differing"], row.get("left_the_lattice", "")]
