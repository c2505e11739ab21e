"""What a sampler is: two plain functions on the integer lattice, and what they share.

On x / sqrt(alpha) a denoising step is u' = u + (sigma' - sigma) * eps, so here it is an integer addition; a flow's is
one on x itself, with the velocity for eps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edict.lattice import LIMIT, from_lattice, largest
from edict.schedule import Schedule

if TYPE_CHECKING:
    import torch

Predict = Callable[["torch.Tensor", float], "torch.Tensor"]
"""predict(latents float64 [N, C, H, W] in the model's scale, timestep) -> their noise, the same shape, any float dtype.
Of a flow, their velocity.

Exactness asks one thing of it: the same bits for the same arguments.
"""

States = tuple["torch.Tensor", "torch.Tensor"]

BITS = 12
"""Fractional bits of the lattice at which rounding is lost in the rounding of pixels: docs/choosing.md."""


class Extent:
    """What a run of the sampler met, a sample: the largest |integer| and whether every prediction was finite.

    Kept on the device, so that nothing waits for the accelerator until it is read.
    """

    def __init__(self, x: torch.Tensor) -> None:
        self.largest = x.new_zeros(len(x))
        self.finite = x.new_ones(len(x)).bool()

    def saw(self, x: torch.Tensor, y: torch.Tensor) -> None:
        for state in (x, y):
            self.largest = self.largest.maximum(largest(state))

    def predicted(self, eps: torch.Tensor) -> None:
        self.finite &= eps.isfinite().flatten(1).all(1)


@dataclass(frozen=True)
class Sampler:
    """A method, as two functions (x, y, schedule, predict, *, bits, start, stop, extent, and its parameters) -> x, y.

    `generate` denoises the int64 pair [N, C, H, W] from position `start` to `stop` >= `start`, `invert` leads from
    `start` to `stop` <= `start`, and `asked(schedule, start, stop)` are the timesteps at which either calls the
    network on the way, in no order.
    `exact`: generate undoes invert to the integer. `ahead`: by how many positions y is nearer to the clean end than x;
    at the clean end itself they are one state. `parameters` are weights from 1/2 to 1 with their defaults (`resolve`),
    `bits` those of the lattice where none are given.
    """

    generate: Callable[..., States]
    invert: Callable[..., States]
    asked: Callable[[Schedule, int, int], list[float]]
    exact: bool = True
    ahead: int = 0
    bits: int = BITS
    parameters: Mapping[str, float] = field(default_factory=dict)


def increment(
    state: torch.Tensor,
    position: int,
    timestep: float,
    gain: float,
    schedule: Schedule,
    predict: Predict,
    bits: int,
    extent: Extent,
) -> torch.Tensor:
    """round(2^bits * gain * eps(state)), int64, `state` being at the noise level of `position`."""
    if gain == 0:  # the no-op last step of some schedules: nothing to ask the network
        return state.new_zeros(state.shape)
    eps = predict(from_lattice(state, schedule.scale(position), bits), timestep)
    extent.predicted(eps)
    step = (eps.double().nan_to_num() * (2.0**bits * gain)).round()
    return step.clamp(-2 * LIMIT, 2 * LIMIT).long()  # beyond any state, and int64 does not wrap: extent sees it
