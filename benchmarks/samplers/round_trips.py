"""Exactness of inversion and generation by each sampler, and the distance of its noise to that of the ODE.

`python -m benchmarks.samplers.round_trips`. The noise of the ODE is that of DDIM inversion with many steps, in floats,
at guidance 1, at the timestep where the few steps end. Distances are root mean squares per image, in standard
deviations of the ODE's noise. Errors are mean squared errors of 8-bit images on [-1, 1] pixels, without the samples
that left the lattice.
"""

from argparse import Namespace
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch

from benchmarks.harness import differing_integers, program, run, save
from benchmarks.samplers import tables
from benchmarks.samplers.drawings import drawings
from edict import EDICT
from edict.integration import solve_floats
from edict.samplers import SAMPLERS, parameters, sampling
from edict.samplers.base import BITS
from jobs.evaluation.bootstrap import mean_interval
from jobs.evaluation.truth import CaptionedImage, squared_error

FINE = 20  # bits of a lattice whose rounding is negligible
RUNS = ((1.0, FINE), (1.0, BITS), (3.0, BITS))  # guidance scale, bits


@torch.inference_mode()
def ode(
    model: EDICT, shown: Sequence[CaptionedImage], steps: int, timesteps: Sequence[int], batch: int
) -> dict[int, torch.Tensor]:
    """Return the noise, float64 [N, C, H, W], at those of the timesteps that a schedule of `steps` has."""
    schedule = model.backend.schedule(sampling(steps=steps))
    parts: dict[int, list[torch.Tensor]] = {t: [] for t in sorted(timesteps) if t in schedule.timesteps}
    for first in range(0, len(shown), batch):
        rows = shown[first : first + batch]
        latents = model.encode([image.image for image in rows], bits=FINE).to_float()[0]
        predict = model.direct.predictor([image.caption for image in rows], 1.0)
        position = schedule.num_steps
        for t in parts:
            stop = schedule.timesteps.index(t)
            latents = solve_floats(latents, "ddim", schedule, predict, position, stop)
            parts[t].append(latents)
            position = stop
    return {t: torch.cat(part) for t, part in parts.items()}


def distance(noise: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    """Return the distance per image, in standard deviations of the other noise, float64 [N]."""
    return ((noise - other).square().mean((1, 2, 3)).sqrt() / other.std()).numpy()


def measure(model: EDICT, shown: Sequence[CaptionedImage], given: Namespace) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every run, step count and sampler, and the distance of half the ODE's steps to all of them."""
    images, captions = [image.image for image in shown], [image.caption for image in shown]
    ends = {steps: int(model.backend.schedule(sampling(steps=steps)).timesteps[0]) for steps in given.steps}
    real, half = (ode(model, shown, steps, list(ends.values()), given.batch) for steps in (given.ode, given.ode // 2))
    fine: dict[tuple[int, str], torch.Tensor] = {}
    rows = []
    for guidance_scale, bits in RUNS:
        clean = model.encode(images, bits=bits)
        base = squared_error(model.decode(clean.to_float()[0]), images)
        for steps, name in product(given.steps, SAMPLERS):
            settings = {"steps": steps, "guidance_scale": guidance_scale}
            start = model.prepare(clean, sampling(**settings, strength=1.0, name=name), given.batch)
            noise, faults = model.integrate(start, captions, 0)
            again, more = model.integrate(noise, captions, start.position)
            faults = faults | more
            error, x = squared_error(model.decode(again.to_float()[0]), images), noise.to_float()[0]
            values = {"mse": error, "minus_autoencoder": error - base, "std": noise.std(), "drift": noise.drift()}
            if guidance_scale == 1:
                values["to_ode"] = distance(x, real[ends[steps]])
                if bits == FINE:
                    fine[steps, name] = x
                else:
                    values["to_fine"] = distance(x, fine[steps, name])
            left = np.array([i in faults for i in range(len(shown))])
            row = {
                "sampler": name,
                "parameters": {parameter: float(value) for parameter, value in parameters(start.sampling).items()},
                **settings,
                "calls": len(SAMPLERS[name].evaluated_steps(start.schedule, start.position, 0)),
                "bits": bits,
                "n": len(shown),
                "left_the_lattice": len(faults),
                "integers": 2 * start.x[0].numel() * int((~left).sum()),
                "integers_differing": differing_integers(again, start, faults),
                **{key: mean_interval(np.where(left, np.nan, found)) for key, found in values.items()},
            }
            rows.append(row)
            print(row, flush=True)
    return {"ode": [{"timestep": t, "half": mean_interval(distance(half[t], real[t]))} for t in half], "rows": rows}


@program(batch=12, threads=torch.get_num_threads(), count=24, steps=[10, 20, 50, 100], ode=500)
def round_trips(given: Namespace) -> None:
    pairs = drawings()
    shown = [first for first, _ in pairs[:: len(pairs) // given.count]][: given.count]
    found = measure(EDICT.from_pretrained(), shown, given)
    tables.round_trips(found)
    save("samplers/round_trips", given, **found)


if __name__ == "__main__":
    run(__doc__, round_trips)
