"""DDIM and its inversion in floats: the baseline. `edict.samplers.ddim` defines both conventions of the inversion."""

import torch

from edict.sampler import Predict
from edict.schedule import Schedule


def generate(latents: torch.Tensor, schedule: Schedule, predict: Predict, *, start: int, stop: int) -> torch.Tensor:
    """Denoise float latents [N, C, H, W] from position `start` to `stop` >= `start`; float64."""
    for i in range(start, stop):
        latents = _step(latents, predict(latents.double(), schedule.timesteps[i]), schedule, i, i + 1)
    return latents


def invert(
    latents: torch.Tensor, schedule: Schedule, predict: Predict, *, start: int, stop: int, euler: bool = False
) -> torch.Tensor:
    """Noise float latents [N, C, H, W] from position `start` to `stop` <= `start`; float64.

    `euler` calls the network at the timestep of the state, eps(x_(t-1), t-1), instead of at eps(x_(t-1), t).
    """
    for i in reversed(range(stop, start)):
        latents = _step(latents, predict(latents.double(), schedule.timestep(i + euler)), schedule, i + 1, i)
    return latents


def _step(latents: torch.Tensor, eps: torch.Tensor, schedule: Schedule, here: int, there: int) -> torch.Tensor:
    u = latents.double() / schedule.scale(here) + (schedule.sigma(there) - schedule.sigma(here)) * eps.double()
    return u * schedule.scale(there)
