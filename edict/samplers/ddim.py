"""DDIM and its inversion (Song et al., 2010.02502): the baseline. The round trip is not exact.

Inversion does not know eps(x_t, t), which generation used for the step from x_t to x_(t-1). Two estimates are in use:

- `ddim`: eps(x_(t-1), t), the timestep of the state that the step leads to (EDICT, equation 9; diffusers'
  DDIMInverseScheduler).
- `ddim_euler`: eps(x_(t-1), t-1), the timestep of the state itself. This is Euler's method on the probability-flow ODE
  (guided-diffusion's ddim_reverse_sample; the code of BELM).

Generation is the same in both. y is x. `edict.ddim` is the same method in floats.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from edict.sampler import Extent, Predict, Sampler, States, increment
from edict.schedule import Schedule

if TYPE_CHECKING:
    import torch


def generate(
    x: torch.Tensor,
    y: torch.Tensor,
    schedule: Schedule,
    predict: Predict,
    *,
    bits: int,
    start: int,
    stop: int,
    extent: Extent,
) -> States:
    """Denoise x by one call a step."""
    for i in range(start, stop):
        gain = schedule.sigma(i + 1) - schedule.sigma(i)
        x = x + increment(x, i, schedule.timesteps[i], gain, schedule, predict, bits, extent)
        extent.saw(x, x)
    return x, x


def invert(
    x: torch.Tensor,
    y: torch.Tensor,
    schedule: Schedule,
    predict: Predict,
    *,
    euler: bool,
    bits: int,
    start: int,
    stop: int,
    extent: Extent,
) -> States:
    """Noise x by one call per step."""
    for i in reversed(range(stop, start)):
        gain = schedule.sigma(i + 1) - schedule.sigma(i)
        x = x - increment(x, i + 1, schedule.timestep(i + euler), gain, schedule, predict, bits, extent)
        extent.saw(x, x)
    return x, x


def _asked(schedule: Schedule, start: int, stop: int, *, euler: bool) -> list[float]:
    steps = range(min(start, stop), min(max(start, stop), schedule.asking))
    return [schedule.timestep(i + (euler and stop < start)) for i in steps]


DDIM, DDIM_EULER = (
    Sampler(generate, partial(invert, euler=euler), partial(_asked, euler=euler), exact=False)
    for euler in (False, True)
)
