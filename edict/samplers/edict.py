"""EDICT: two coupled states. A half-step changes one state by the prediction at the other, and then both are mixed.

Wallace, Gokul, Naik: EDICT: Exact Diffusion Inversion via Coupled Transformations, CVPR 2023, 2211.12446, equations 14
and 15.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

from edict.lattice import mix, unmix
from edict.samplers.base import Query, Sampler, Steps
from edict.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor


def generate(
    x: Tensor, y: Tensor, schedule: Schedule, parameters: Mapping[str, Fraction], start: int, stop: int
) -> Steps:
    """Denoise both states. Each step has two half-steps and one mixing."""
    for i in range(start, stop):
        gain = schedule.sigma(i + 1) - schedule.sigma(i)
        first, second = (x, y) if i % 2 == 0 else (y, x)
        first = first + (yield Query(second, i, i, gain))
        second = second + (yield Query(first, i + 1, i, gain))
        x, y = (first, second) if i % 2 == 0 else (second, first)
        x, y = mix(x, y, parameters["p"])
    return x, y


def invert(
    x: Tensor, y: Tensor, schedule: Schedule, parameters: Mapping[str, Fraction], start: int, stop: int
) -> Steps:
    """Add noise: undo the steps of `generate`, the last one first.

    The order within a step depends on the number of the step, as in `generate`.
    """
    for i in reversed(range(stop, start)):
        gain = schedule.sigma(i + 1) - schedule.sigma(i)
        x, y = unmix(x, y, parameters["p"])
        first, second = (x, y) if i % 2 == 0 else (y, x)
        second = second - (yield Query(first, i + 1, i, gain))
        first = first - (yield Query(second, i, i, gain))
        x, y = (first, second) if i % 2 == 0 else (second, first)
    return x, y


EDICT = Sampler(generate, invert, parameters={"p": 0.93})
