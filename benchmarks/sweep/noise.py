"""Effect of steps, p and gamma on the noise: the distance of its states, its spread, and the size of its integers."""

from argparse import Namespace
from collections.abc import Container, Sequence
from typing import Any

import torch

from edict import EDICT, Pair
from edict.samplers import SAMPLERS, parameters, sampling
from jobs.evaluation.truth import ReferenceEdit
from pipeline.store.parts import overflows

STEPS = (10, 20, 50, 100, 200)
P = (0.90, 0.93, 0.96, 0.98, 1.0)
GAMMA = (0.90, 0.92, 0.94, 0.96, 0.98, 1.0)
COLUMNS: dict[str, Any] = {
    "sampler": "sampler",
    "steps": "steps",
    "guidance": "guidance_scale:g",
    "weight": "weight:g",
    "default": lambda row: "yes" if row["given"] is None else "",
    "drift": "drift:.4f",
    "least": "least:.4f",
    "most": "most:.4f",
    "std": "std:.4f",
    "left the lattice": "left_the_lattice",
    "log2 of the largest integer": "log2_largest:.1f",
}


def settings() -> list[dict[str, Any]]:
    """Return samplers with steps, guidance scale and parameter. None is the parameter's default, by steps.

    DDIM has one state; its spread is for comparison.
    """
    found: list[tuple[Any, ...]] = [("bdia", 50, 3.0, gamma) for gamma in GAMMA]
    found += [("ddim", steps, 3.0, None) for steps in STEPS]
    found += [("edict", steps, 3.0, p) for steps in STEPS for p in P]
    found += [("edict", steps, 3.0, None) for steps in STEPS if steps > 50]  # Up to 50 steps the default is in P.
    found += [("ddim", 50, 1.0, None), *(("edict", 50, 1.0, p) for p in P)]
    return [dict(zip(("sampler", "steps", "guidance_scale", "given"), one, strict=True)) for one in found]


def measure(
    model: EDICT, edits: Sequence[ReferenceEdit], one: dict[str, Any], given: Namespace
) -> list[dict[str, Any]]:
    """Measure the noise of the sources, inverted in one batch, each under its caption."""
    weights = dict.fromkeys(SAMPLERS[one["sampler"]].parameters, one["given"])
    common = {"steps": one["steps"], "guidance_scale": one["guidance_scale"], "name": one["sampler"]}
    start = model.encode([edit.source.image for edit in edits])
    start = model.prepare(start, sampling(strength=1.0, **common, **weights))
    pair, faults = model.integrate(start, [edit.source.caption for edit in edits], 0)
    left = {*faults, *overflows(pair)}
    weight = next((float(value) for value in parameters(pair.sampling).values()), None)
    return [{**one, "weight": weight, "left_the_lattice": len(left), **spread(pair, left)}]


def spread(pair: Pair, left: Container[int]) -> dict[str, float | None]:
    """Return the mean, least and greatest drift, the mean standard deviation, and log2 of the largest integer.

    Samples that left the lattice do not count; without any other, each value is None.
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
