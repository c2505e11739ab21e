"""Effect of the bits of the lattice: the bytes of a stored pair, and the errors of coarser integers."""

import io
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.harness import differing_integers, dtype_name
from benchmarks.sweep.noise import spread
from edict import EDICT, Pair
from edict.integration import Faults
from edict.lattice import to_lattice
from edict.samplers import sampling
from edict.samplers.base import BITS
from jobs.evaluation.truth import ReferenceEdit, squared_error
from pipeline.store.parts import Row, overflows, to_nested_lists, to_parquet, to_table
from schemas.sampling import count_executed_steps

SWEPT = (4, 6, 8, 10, 12, 14, 16, 20)
FINEST = 30  # bits of the noise and the edits that others are compared with
UNROUNDED = 40  # bits of clean latents whose rounding is negligible
COLUMNS: dict[str, Any] = {
    "sampler": "sampler",
    "bits": "bits",
    "bytes of x and y": "bytes:.0f",
    "drift": "drift:.4f",
    "std": "std:.4f",
    "noise, rms to 30 bits": "noise_rms:.1e",
    "image, mse to unrounded": "picture_mse:.1e",
    "edit, mse to 30 bits": "edit_mse:.1e",
    "edit, mse to the truth": "truth_mse:.4f",
    "log2 of the largest integer": "log2_largest:.1f",
    "integers differing": "integers_differing",
    "left the lattice": "left_the_lattice",
}


class RoundTrip(NamedTuple):
    """A clean pair, its noise, the edits from it, and the differing integers and faults of its regeneration."""

    start: Pair
    noise: Pair
    edits: list[Image.Image]
    integers_differing: int
    faults: Faults


def settings() -> list[dict[str, Any]]:
    """Return the samplers."""
    return [{"sampler": sampler} for sampler in ("edict", "bdia", "obelm")]


def measure(
    model: EDICT, edits: Sequence[ReferenceEdit], one: dict[str, Any], given: Namespace
) -> list[dict[str, Any]]:
    """Measure each number of bits over the samples that stay on the lattice, and EDICT's pair as floats.

    `noise_rms` is the distance of both states, in the model's scale, to those of FINEST bits. The others are mean
    squared errors on [-1, 1] pixels: `edit_mse` of the edit to that of FINEST bits, and `picture_mse` of the decoded
    clean latents to those without rounding.
    """
    images, targets = [edit.source.image for edit in edits], [edit.target.image for edit in edits]
    unrounded = model.decode(model.encode(images, bits=UNROUNDED).to_float()[0])
    finest = round_trip(model, edits, FINEST, one["sampler"], given)
    rows: list[dict[str, Any]] = []
    for bits in SWEPT:
        made = round_trip(model, edits, bits, one["sampler"], given)
        left = {**finest.faults, **made.faults, **overflows(made.noise)}
        counts = {"integers_differing": made.integers_differing, "left_the_lattice": len(left)}
        row = {**one, "bits": bits, **counts, **spread(made.noise, left)}
        if sound := [i for i in range(len(edits)) if i not in left]:
            off = torch.stack(made.noise[sound].to_float()) - torch.stack(finest.noise[sound].to_float())
            row |= {
                "bytes": stored_bytes(part(made.noise[sound])),
                "noise_rms": float(off.square().mean().sqrt()),
                "picture_mse": squared_error(model.decode(made.start.to_float()[0]), unrounded)[sound].mean(),
                "edit_mse": squared_error(made.edits, finest.edits)[sound].mean(),
                "truth_mse": squared_error(made.edits, targets)[sound].mean(),
            }
        rows.append(row)
        if one["sampler"] == "edict" and bits == BITS:
            rows += [as_floats(made.noise, dtype) for dtype in (torch.float32, torch.float16)]
    return rows


def round_trip(model: EDICT, edits: Sequence[ReferenceEdit], bits: int, sampler: str, given: Namespace) -> RoundTrip:
    """Invert and regenerate; edits branch off the regeneration at their strength."""
    sources, targets = [edit.source.caption for edit in edits], [edit.target.caption for edit in edits]
    start = model.encode([edit.source.image for edit in edits], bits=bits)
    start = model.prepare(start, sampling(steps=given.steps, strength=1.0, guidance_scale=given.guidance, name=sampler))
    noise, inverting = model.integrate(start, sources, 0)
    branch, branching = model.integrate(
        noise, sources, start.position - count_executed_steps(given.steps, given.strength)
    )
    again, regenerating = model.integrate(branch, sources, start.position)
    edited, editing = model.integrate(branch, targets, start.position)
    faults = inverting | branching | regenerating | editing
    images = model.decode(edited.to_float()[0])
    return RoundTrip(start, noise, images, differing_integers(again, start, faults), faults)


def as_floats(noise: Pair, dtype: torch.dtype) -> dict[str, Any]:
    """Return the bytes of the same pair as floats of `dtype`, and the number of integers that they do not restore."""
    table, wrong = part(noise), 0
    for name, states, scale, real in zip(("x", "y"), (noise.x, noise.y), noise.scales, noise.to_float(), strict=True):
        floats = real.to(dtype)
        column = to_nested_lists(floats.numpy())
        field = pa.field(name, column.type, nullable=False)
        table = table.set_column(table.schema.get_field_index(name), field, column)
        wrong += int((to_lattice(floats, scale, noise.bits) != states).sum())
    stored = {"bits": dtype_name(dtype), "bytes": stored_bytes(table)}
    return {"sampler": noise.sampling.name, **stored, "integers_differing": wrong}


def part(noise: Pair) -> pa.Table:
    """Return a part of a store with the pairs, and rows that are otherwise empty."""
    return to_table([Row("", "", 0, "", False, "", "", 0, 0, None, 0)] * len(noise), noise, {})


def stored_bytes(table: pa.Table) -> float:
    """Return the bytes per row of the columns x and y in a part, encoded and compressed."""
    group = pq.ParquetFile(io.BytesIO(to_parquet(table))).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    states = [column for column in columns if column.path_in_schema.split(".")[0] in ("x", "y")]
    return float(sum(column.total_compressed_size for column in states)) / table.num_rows
