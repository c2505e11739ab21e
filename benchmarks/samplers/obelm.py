"""Differences between the lattice and O-BELM's paper: the limited weight, and the rounding that inversion expands.

`python -m benchmarks.samplers.obelm`. The weight a_k of O-BELM is limited to 1 on the lattice. Edits without the limit
are made in float64; their distance to the lattice's is in grey levels of 255. Rounding is measured as the distance of
the noise at few bits to the noise at FINE bits, in standard deviations of the latter, by `steps_offset`.
"""

import math
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import program, run, save
from benchmarks.samplers import tables
from benchmarks.samplers.round_trips import distance
from edict import EDICT, Pair
from edict.integration import Predict
from edict.samplers import SAMPLERS, sampling, two_step
from edict.schedule import Schedule
from jobs.evaluation.bootstrap import mean_interval
from jobs.evaluation.methods import Edited, Method, by_edict
from jobs.evaluation.truth import ReferenceEdit, reference_edits, split, squared_error

FINE = 30  # bits
Weight = Callable[[Schedule, int], float]


def limited(schedule: Schedule, k: int) -> float:
    """Return the weight as on the lattice, except for the rounding to a fraction."""
    return min(two_step.obelm(schedule, k), 1)


def invert(clean: torch.Tensor, schedule: Schedule, predict: Predict, weight: Weight) -> tuple[torch.Tensor, ...]:
    """Invert clean latents to the states at positions 0 and 1, x / sqrt(alpha), float64 [N, C, H, W]."""
    end = schedule.num_evaluated_steps
    y = clean / schedule.scale(schedule.num_steps)
    eps = predict(y * schedule.scale(end), schedule.timesteps[end - 1]).double()
    x = y + (schedule.sigma(end - 1) - schedule.sigma(end)) * eps
    for k in reversed(range(1, end)):
        x, y = x + (y - x - _step(x, k, schedule, predict, weight)) / weight(schedule, k), x
    return x, y


def generate(states: tuple[torch.Tensor, ...], schedule: Schedule, predict: Predict, weight: Weight) -> torch.Tensor:
    """Generate the clean latents, float64 [N, C, H, W], from the states at positions 0 and 1."""
    x, y = states
    for k in range(1, schedule.num_evaluated_steps):
        x, y = y, y + weight(schedule, k) * (x - y) + _step(y, k, schedule, predict, weight)
    return y * schedule.scale(schedule.num_steps)


def _step(u: torch.Tensor, k: int, schedule: Schedule, predict: Predict, weight: Weight) -> torch.Tensor:
    """Return the addition of the prediction at position `k`."""
    before, h = (schedule.sigma(i) - schedule.sigma(i + 1) for i in (k - 1, k))
    eps = predict(u * schedule.scale(k), schedule.timesteps[k]).double()
    return -(h + weight(schedule, k) * before) * eps


@torch.inference_mode()
def by_floats(
    weight: Weight, model: EDICT, start: Pair, sources: list[str], targets: list[str], guidance_scale: float
) -> Edited:
    """Invert under the source's caption and generate under the target's, in float64."""
    predict = model.direct.predictor(sources, start.guidance_scale)
    states = invert(start.to_float()[0], start.schedule, predict, weight)
    return generate(states, start.schedule, model.direct.predictor(targets, guidance_scale), weight), set()


def grey_levels(images: Sequence[Image.Image], others: Sequence[Image.Image]) -> float:
    """Return the root mean square difference of the pixels, in levels of 255."""
    differences = [np.asarray(a, np.float64) - np.asarray(b, np.float64) for a, b in zip(images, others, strict=True)]
    return float(np.sqrt(np.mean(np.square(differences))))


def limit(model: EDICT, edits: Sequence[ReferenceEdit], steps: int, guidance_scale: float) -> dict[str, Any]:
    """Compare the edits of the lattice with those in floats, with and without the limit of the weight."""
    sources, targets = [edit.source.caption for edit in edits], [edit.target.caption for edit in edits]
    start = model.prepare(
        model.encode([edit.source.image for edit in edits], bits=SAMPLERS["obelm"].bits),
        sampling(steps=steps, strength=1.0, guidance_scale=guidance_scale, name="obelm"),
        len(edits),
    )
    weights = [two_step.obelm(start.schedule, k) for k in range(1, start.schedule.num_evaluated_steps)]
    methods: dict[str, Method] = {
        "lattice": by_edict,
        "limited": partial(by_floats, limited),
        "unlimited": partial(by_floats, two_step.obelm),
    }
    made, errors = dict[str, list[Image.Image]](), dict[str, np.ndarray]()
    for name, method in methods.items():
        latents, failed = method(model, start, sources, targets, guidance_scale)
        if failed:
            raise ArithmeticError(f"{name}: {len(failed)} of {len(edits)} edits left the lattice; raise --steps")
        made[name] = model.decode(latents)
        errors[name] = squared_error(made[name], [edit.target.image for edit in edits])
    drawings = np.array([edit.drawings for edit in edits])
    return {
        "steps": steps,
        "guidance_scale": guidance_scale,
        "n": len(edits),
        "steps_above_1": sum(weight > 1 for weight in weights),
        "largest_weight": max(weights),
        "grey_levels": {name: grey_levels(made[name], made["lattice"]) for name in ("limited", "unlimited")},
        "truth": {name: mean_interval(error, drawings) for name, error in errors.items()},
        "unlimited_minus_lattice": mean_interval(errors["unlimited"] - errors["lattice"], drawings),
    }


def rounding(model: EDICT, edits: Sequence[ReferenceEdit], steps: int, offset: int) -> dict[str, Any]:
    """Measure the effect of rounding to `bits` on the noise at guidance 1, and its expansion by the inversion."""
    noise = {}
    for bits in (12, 16, FINE):
        clean = model.encode([edit.source.image for edit in edits], bits=bits)
        start = model.prepare(
            clean,
            sampling(steps=steps, strength=1.0, guidance_scale=1.0, name="obelm", steps_offset=offset),
            len(edits),
        )
        pair, _ = model.integrate(start, [edit.source.caption for edit in edits], 0)
        noise[bits] = pair.to_float()[0]
    schedule = start.schedule
    weights = [limited(schedule, k) for k in range(1, schedule.num_evaluated_steps)]
    return {
        "steps": steps,
        "steps_offset": offset,
        "last_step": schedule.sigma(schedule.num_evaluated_steps - 1) - schedule.sigma(schedule.num_evaluated_steps),
        "last_weight": weights[-1],
        "expansion": max(math.prod(1 / weight for weight in weights[first::2]) for first in (0, 1)),
        "to_fine": {str(bits): float(distance(noise[bits], noise[FINE]).mean()) for bits in (12, 16)},
    }


@program(
    batch=16,
    threads=torch.get_num_threads(),
    count=12,  # of the edits that `edict eval edits` chooses settings on
    steps=10,
    guidance=[1, 3],  # of both directions
    offsets=[0, 1, 5, 20],  # values of steps_offset
)
def obelm(given: Namespace) -> None:
    model = EDICT.from_pretrained()
    tuning, _ = split(reference_edits(), 6)
    edits = tuning[:: len(tuning) // given.count][: given.count]
    found = {
        "limit": [limit(model, edits, given.steps, float(scale)) for scale in given.guidance],
        "rounding": [rounding(model, edits, given.steps, offset) for offset in given.offsets],
    }
    tables.obelm(found)
    save("samplers/obelm", given, **found)


if __name__ == "__main__":
    run(__doc__, obelm)
