"""DDIM and its inversion (Song et al., 2010.02502): the baseline. A round trip is not exact.

The inverse of the step from x_t to x_(t-1) needs eps(x_t, t), which is unknown in inversion. Two estimates are in use:

- `ddim`: eps(x_(t-1), t), with the timestep of the next state (EDICT, equation 9; DDIMInverseScheduler of diffusers).
- `ddim_euler`: eps(x_(t-1), t-1), with the timestep of the state itself. This is Euler's method on the probability-flow
  ODE (ddim_reverse_sample of guided-diffusion; the code of BELM).

Generation is the same in both. y equals x.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

from edict.samplers.base import Query, Sampler, Steps
from edict.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor


def generate(
    x: Tensor, y: Tensor, schedule: Schedule, parameters: Mapping[str, Fraction], start: int, stop: int
) -> Steps:
    """Denoise x, with one call per step."""
    for i in range(start, stop):
        x = x + (yield Query(x, i, i, schedule.sigma(i + 1) - schedule.sigma(i)))
    return x, x


def invert(
    x: Tensor,
    y: Tensor,
    schedule: Schedule,
    parameters: Mapping[str, Fraction],
    start: int,
    stop: int,
    *,
    euler: bool,
) -> Steps:
    """Add noise to x, with one call per step."""
    for i in reversed(range(stop, start)):
        x = x - (yield Query(x, i + 1, i + euler, schedule.sigma(i + 1) - schedule.sigma(i)))
    return x, x


DDIM, DDIM_EULER = (Sampler(generate, partial(invert, euler=euler), exact=False) for euler in (False, True))
