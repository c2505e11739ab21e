"""EDICT on the integer lattice: `generate` and `invert`, exact inverses of each other.

Wallace, Gokul, Naik: EDICT: Exact Diffusion Inversion via Coupled Transformations, CVPR 2023, 2211.12446, equations 14
and 15. On x / sqrt(alpha) a half-step is u' = u + (sigma' - sigma) * eps, so it is an integer addition here; a flow's
is one on x itself, with the velocity for eps.
"""

from collections.abc import Callable
from fractions import Fraction

import torch

from edict.lattice import LIMIT, from_lattice, mix, unmix
from edict.schedule import Schedule

Predict = Callable[[torch.Tensor, float], torch.Tensor]
"""predict(latents float64 [N, C, H, W] in the model's scale, timestep) -> their noise, the same shape, any float dtype.
Of a flow, their velocity.

Exactness asks one thing of it: the same bits for the same arguments.
"""


class Extent:
    """What a run of the sampler met, a sample: the largest |integer| and whether every prediction was finite.

    Kept on the device, so that nothing waits for the accelerator until it is read.
    """

    def __init__(self, x: torch.Tensor) -> None:
        self.largest = x.new_zeros(len(x))
        self.finite = torch.ones(len(x), dtype=torch.bool, device=x.device)

    def saw(self, x: torch.Tensor, y: torch.Tensor) -> None:
        for state in (x, y):
            self.largest = torch.maximum(self.largest, state.abs().flatten(1).amax(1))

    def predicted(self, eps: torch.Tensor) -> None:
        self.finite &= eps.isfinite().flatten(1).all(1)


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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Denoise the int64 pair [N, C, H, W] from position `start` to `stop` >= `start`: half-steps, then mix."""
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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise the int64 pair [N, C, H, W] from position `start` to `stop` <= `start`: `generate` undone, last first.

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
    """round(2^bits * (sigma' - sigma) * eps(other)), `other` being at the noise level of `position`."""
    gain = schedule.sigma(i + 1) - schedule.sigma(i)
    if gain == 0:  # the no-op last step of some schedules: nothing to ask the network
        return torch.zeros_like(other)
    eps = predict(from_lattice(other, schedule.scale(position), bits), schedule.timesteps[i])
    extent.predicted(eps)
    half_step = torch.round(eps.double().nan_to_num() * (2.0**bits * gain))
    return half_step.clamp(-2 * LIMIT, 2 * LIMIT).long()  # beyond any state, and int64 does not wrap: extent sees it
