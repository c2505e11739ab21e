"""What comes back from inversion and generation by each sampler, and how near the noise between is to the ODE's.

`python -m benchmarks.samplers.round_trips`. The ODE's is what DDIM inversion of many steps gives, in floats, at
guidance 1 and at the timestep where the few steps end; distances are root mean squares of x - ODE's, a picture, in
standard deviations of the latter. Errors are mean squared, of 8-bit pictures on [-1, 1] pixels; samples that left the
lattice are counted, and no part of them.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch

from benchmarks.record import numbers, parser, save
from benchmarks.samplers.drawings import drawings
from edict import EDICT
from edict.integration import solve_floats
from edict.inversion import BITS
from edict.samplers import SAMPLERS, parameters, sampling
from jobs.evaluation.edits import mean_interval
from jobs.evaluation.record import table
from jobs.evaluation.truth import Captioned, squared_error

FINE = 20  # bits of a lattice whose rounding is next to none
RUNS = ((1.0, FINE), (1.0, BITS), (3.0, BITS))  # guidance, bits


@torch.inference_mode()
def ode(
    model: EDICT, shown: Sequence[Captioned], steps: int, timesteps: Sequence[int], batch: int
) -> dict[int, torch.Tensor]:
    """The noise, float64 [N, C, H, W], at those of the timesteps that are on the schedule of so many steps."""
    schedule = model.model.schedule(sampling(steps=steps))
    parts: dict[int, list[torch.Tensor]] = {t: [] for t in sorted(timesteps) if t in schedule.timesteps}
    for first in range(0, len(shown), batch):
        rows = shown[first : first + batch]
        latents = model.encode([picture.image for picture in rows], bits=FINE).to_float()[0]
        predict = model.predictor([picture.caption for picture in rows], 1.0)
        position = schedule.num_steps
        for t in parts:
            stop = schedule.timesteps.index(t)
            latents = solve_floats(latents, "ddim", schedule, predict, position, stop)
            parts[t].append(latents)
            position = stop
    return {t: torch.cat(part) for t, part in parts.items()}


def distance(noise: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    """A picture, in standard deviations of the other, float64 [N]."""
    return ((noise - other).square().mean((1, 2, 3)).sqrt() / other.std()).numpy()


def measure(model: EDICT, shown: Sequence[Captioned], given: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of every run, step count and sampler, and how far half the ODE's steps are from all."""
    images, captions = [picture.image for picture in shown], [picture.caption for picture in shown]
    ends = {steps: int(model.model.schedule(sampling(steps=steps)).timesteps[0]) for steps in given.steps}
    real = ode(model, shown, given.ode, list(ends.values()), given.batch)
    half = ode(model, shown, given.ode // 2, list(ends.values()), given.batch)
    reference = [{"timestep": t, "half": mean_interval(distance(half[t], real[t]))} for t in half]
    fine: dict[tuple[int, str], torch.Tensor] = {}
    rows = []
    for guidance_scale, bits in RUNS:
        clean = model.encode(images, bits=bits)
        base = squared_error(model.decode(clean.to_float()[0]), images)
        for steps, name in product(given.steps, SAMPLERS):
            about = {"steps": steps, "guidance_scale": guidance_scale}
            start = model.prepare(clean, sampling(**about, strength=1.0, name=name), given.batch)
            noise, lost = model.integrate(start, captions, 0)
            again, more = model.integrate(noise, captions, start.position)
            sound = np.array([i not in lost | more for i in range(len(shown))])
            differing = ((again.x != start.x).sum((1, 2, 3)) + (again.y != start.y).sum((1, 2, 3))).numpy()
            error, x = squared_error(model.decode(again.to_float()[0]), images), noise.to_float()[0]
            values = {"mse": error, "minus_autoencoder": error - base, "std": noise.std(), "drift": noise.drift()}
            if guidance_scale == 1:
                values["to_ode"] = distance(x, real[ends[steps]])
                if bits == FINE:
                    fine[steps, name] = x
                else:
                    values["to_fine"] = distance(x, fine[steps, name])
            row = {
                "sampler": name,
                "parameters": {parameter: float(value) for parameter, value in parameters(start.sampling).items()},
                **about,
                "calls": len(SAMPLERS[name].evaluated_steps(start.schedule, start.position, 0)),
                "bits": bits,
                "n": len(shown),
                "left_the_lattice": int((~sound).sum()),
                "integers": int(2 * start.x[0].numel() * sound.sum()),
                "integers_differing": int(differing[sound].sum()),
                **{what: mean_interval(np.where(sound, found, np.nan)) for what, found in values.items()},
            }
            rows.append(row)
            print(*line(row), flush=True)
    return rows, reference


HEAD = ("sampler", "steps", "guidance", "bits", "left", "differing", "mse", "- autoencoder", "std", "drift", "to ODE's")


def line(row: dict[str, Any]) -> list[object]:
    """A row as it is printed."""
    means = [f"{row[what][0]:.2g}" if what in row else "" for what in ("minus_autoencoder", "std", "drift", "to_ode")]
    share = row["integers_differing"] / max(row["integers"], 1)
    about = [row[what] for what in ("sampler", "steps", "guidance_scale", "bits", "left_the_lattice")]
    return [*about, f"{share:.1%}", f"{row['mse'][0]:.5f}", *means]


def main() -> None:
    arguments = parser(__doc__)
    arguments.set_defaults(batch=12)
    arguments.add_argument("--count", type=int, default=24, help="pictures, each of another pair of drawings")
    arguments.add_argument("--steps", type=numbers, default=[10, 20, 50, 100])
    arguments.add_argument("--ode", type=int, default=500, help="steps of the DDIM inversion that stands for the ODE")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    pairs = drawings()
    shown = [first for first, _ in pairs[:: len(pairs) // given.count]][: given.count]
    rows, reference = measure(EDICT.from_pretrained(), shown, given)
    print(table(HEAD, [line(row) for row in rows]))
    print(f"\nwritten to {save('samplers/round_trips', given, ode=reference, rows=rows)}")


if __name__ == "__main__":
    main()
