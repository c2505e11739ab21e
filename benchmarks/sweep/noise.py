"""What steps, p and gamma make of the noise: how far its states are apart, its spread, the size of its integers."""

from argparse import Namespace
from collections.abc import Container, Sequence
from typing import Any

import torch

from edict import EDICT, Pair
from edict.samplers import SAMPLERS, parameters, sampling
from jobs.evaluation.truth import ReferenceEdit
from pipeline.store.parts import storable

STEPS = (10, 20, 50, 100, 200)
P = (0.90, 0.93, 0.96, 0.98, 1.0)
GAMMA = (0.90, 0.92, 0.94, 0.96, 0.98, 1.0)
HEAD = (
    "sampler",
    "steps",
    "guidance",
    "weight",
    "drift",
    "least",
    "most",
    "std",
    "left the lattice",
    "log2 of the largest integer",
)


def tries() -> list[dict[str, Any]]:
    """By sampler, steps, guidance and the parameter that is given; None is its default, which depends on the steps.

    DDIM, which has one state, is what the spread compares with.
    """
    found: list[tuple[Any, ...]] = [("bdia", 50, 3.0, gamma) for gamma in GAMMA]
    found += [("ddim", steps, 3.0, None) for steps in STEPS]
    found += [("edict", steps, 3.0, p) for steps in STEPS for p in P]
    found += [("edict", steps, 3.0, None) for steps in STEPS if steps > 50]  # elsewhere it is among P
    found += [("ddim", 50, 1.0, None), *(("edict", 50, 1.0, p) for p in P)]
    return [dict(zip(("sampler", "steps", "guidance_scale", "given"), one, strict=True)) for one in found]


def measure(
    model: EDICT, edits: Sequence[ReferenceEdit], one: dict[str, Any], given: Namespace
) -> list[dict[str, Any]]:
    """The noise of the sources, inverted in one batch, each under its caption."""
    start = model.encode([edit.source.image for edit in edits])
    start = model.prepare(
        start,
        sampling(
            steps=one["steps"],
            strength=1.0,
            guidance_scale=one["guidance_scale"],
            name=one["sampler"],
            **dict.fromkeys(SAMPLERS[one["sampler"]].parameters, one["given"]),
        ),
    )
    pair, faults = model.integrate(start, [edit.source.caption for edit in edits], 0)
    left = {*faults, *storable(pair)}
    weight = next((float(value) for value in parameters(pair.sampling).values()), None)
    return [{**one, "weight": weight, "left_the_lattice": len(left), **spread(pair, left)}]


def spread(pair: Pair, left: Container[int]) -> dict[str, float | None]:
    """Of the samples that stay on the lattice, None where none does.

    The mean drift and the least and the most of a sample, the mean std, log2 of the largest integer.
    """
    sound = [i for i in range(len(pair)) if i not in left]
    if not sound:
        return dict.fromkeys(("drift", "least", "most", "std", "log2_largest"))
    drift, largest = pair[sound].drift(), torch.stack([pair.x[sound], pair.y[sound]]).abs().max()
    return {
        "drift": float(drift.mean()),
        "least": float(drift.min()),
        "most": float(drift.max()),
        "std": float(pair[sound].std().mean()),
        "log2_largest": float(largest.double().log2()),
    }


def line(row: dict[str, Any]) -> list[object]:
    """A row as it is printed."""
    weight = "" if row["weight"] is None else f"{row['weight']:g}{' (default)' if row['given'] is None else ''}"
    figures = ["" if row[name] is None else f"{row[name]:.4f}" for name in ("drift", "least", "most", "std")]
    largest = "" if row["log2_largest"] is None else f"{row['log2_largest']:.1f}"
    return [
        row["sampler"],
        row["steps"],
        f"{row['guidance_scale']:g}",
        weight,
        *figures,
        row["left_the_lattice"],
        largest,
    ]
