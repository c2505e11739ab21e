"""EDICT as published, with floating-point states of any dtype and without the integer lattice.

Wallace, Gokul, Naik: EDICT: Exact Diffusion Inversion via Coupled Transformations, CVPR 2023, 2211.12446, equations 14
and 15. `predict(latents, timestep)` returns the predicted noise, which is cast to the dtype of the states.
"""

import math

import torch

from edict.integration import Predict
from edict.schedule import Schedule


def invert(
    x: torch.Tensor, y: torch.Tensor, schedule: Schedule, predict: Predict, p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add noise to the pair of latents, floats [N, C, H, W], along the whole schedule."""
    for i in reversed(range(schedule.num_steps)):
        a, b = _coefficients(schedule, i)
        y = (y - (1 - p) * x) / p
        x = (x - (1 - p) * y) / p
        first, second = (x, y) if i % 2 == 0 else (y, x)
        second = (second - b * predict(first, schedule.timesteps[i]).to(x.dtype)) / a
        first = (first - b * predict(second, schedule.timesteps[i]).to(x.dtype)) / a
        x, y = (first, second) if i % 2 == 0 else (second, first)
    return x, y


def generate(
    x: torch.Tensor, y: torch.Tensor, schedule: Schedule, predict: Predict, p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Denoise the pair of latents, floats [N, C, H, W], along the whole schedule."""
    for i in range(schedule.num_steps):
        a, b = _coefficients(schedule, i)
        first, second = (x, y) if i % 2 == 0 else (y, x)
        first = a * first + b * predict(second, schedule.timesteps[i]).to(x.dtype)
        second = a * second + b * predict(first, schedule.timesteps[i]).to(x.dtype)
        x, y = (first, second) if i % 2 == 0 else (second, first)
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
    return x, y


def _coefficients(schedule: Schedule, i: int) -> tuple[float, float]:
    """Return a and b of the DDIM step x' = a x + b eps."""
    alpha, alpha_prev = schedule.alpha(i), schedule.alpha(i + 1)
    a = math.sqrt(alpha_prev / alpha)
    return a, math.sqrt(1 - alpha_prev) - a * math.sqrt(1 - alpha)
