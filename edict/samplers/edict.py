"""EDICT: two coupled states that lead each other, and are mixed.

Wallace, Gokul, Naik: EDICT: Exact Diffusion Inversion via Coupled Transformations, CVPR 2023, 2211.12446, equations 14
and 15.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from edict.lattice import mix, unmix
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
    p: Fraction,
    bits: int,
    start: int,
    stop: int,
    extent: Extent,
) -> States:
    """Denoise: half-steps, then mix."""
    for i in range(start, stop):
        first, second = (x, y) if i % 2 == 0 else (y, x)
        first = first + _half_step(second, i, i, schedule, predict, bits, extent)
        second = second + _half_step(first, i + 1, i, schedule, predict, bits, extent)
        x, y = (first, second) if i % 2 == 0 else (second, first)
        extent.saw(x, y)  # before mixing, which never widens the pair
        x, y = mix(x, y, p)
    return x, y


def invert(
    x: torch.Tensor,
    y: torch.Tensor,
    schedule: Schedule,
    predict: Predict,
    *,
    p: Fraction,
    bits: int,
    start: int,
    stop: int,
    extent: Extent,
) -> States:
    """Noise: `generate` undone, last first.

    The order within a step follows the step's own number, as in `generate`, never this loop's count.
    """
    for i in reversed(range(stop, start)):
        x, y = unmix(x, y, p)
        extent.saw(x, y)
        first, second = (x, y) if i % 2 == 0 else (y, x)
        second = second - _half_step(first, i + 1, i, schedule, predict, bits, extent)
        first = first - _half_step(second, i, i, schedule, predict, bits, extent)
        x, y = (first, second) if i % 2 == 0 else (second, first)
        extent.saw(x, y)
    return x, y


def _half_step(
    other: torch.Tensor, position: int, i: int, schedule: Schedule, predict: Predict, bits: int, extent: Extent
) -> torch.Tensor:
    """What step `i` adds to one state for the other, which is at the noise level of `position`."""
    gain = schedule.sigma(i + 1) - schedule.sigma(i)
    return increment(other, position, schedule.timesteps[i], gain, schedule, predict, bits, extent)


def _asked(schedule: Schedule, start: int, stop: int) -> list[float]:
    return [*schedule.timesteps[min(start, stop) : min(max(start, stop), schedule.asking)]] * 2


EDICT = Sampler(generate, invert, _asked, parameters={"p": 0.93})
