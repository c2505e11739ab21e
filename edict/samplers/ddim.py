"""DDIM and its inversion (Song et al., 2010.02502; EDICT, equations 8 and 9): the baseline. It is not exact.

The inversion evaluates eps(x_(t-1), t) where generation evaluates eps(x_t, t). y is x. `edict.ddim` is the same in
floats.
"""

from __future__ import annotations

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
    bits: int,
    start: int,
    stop: int,
    extent: Extent,
) -> States:
    """Noise x by one call a step."""
    for i in reversed(range(stop, start)):
        gain = schedule.sigma(i + 1) - schedule.sigma(i)
        x = x - increment(x, i + 1, schedule.timesteps[i], gain, schedule, predict, bits, extent)
        extent.saw(x, x)
    return x, x


def _asked(asking: int, start: int, stop: int) -> list[int]:
    return [*range(min(start, stop), min(max(start, stop), asking))]


DDIM = Sampler(generate, invert, _asked, exact=False)
