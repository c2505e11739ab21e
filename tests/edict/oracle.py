"""EDICT in float64, written from the paper's equations and sharing no code with `edict`: what the lattice follows.

Wallace, Gokul, Naik: EDICT: Exact Diffusion Inversion via Coupled Transformations, CVPR 2023, 2211.12446, equations 14
and 15, in the scale of x itself. `alphas_cumprod` has one entry more than `timesteps`: step i leads from entry i to
entry i + 1, and its order (x first or y first) follows i. `predict(latents, timestep)` returns the noise.
"""

import math
from collections.abc import Callable, Sequence

import torch

Predict = Callable[[torch.Tensor, int], torch.Tensor]
States = tuple[torch.Tensor, torch.Tensor]


def coefficients(alpha: float, alpha_prev: float) -> tuple[float, float]:
    """a and b of x_prev = a x + b eps, the DDIM step."""
    a = math.sqrt(alpha_prev / alpha)
    return a, math.sqrt(1 - alpha_prev) - a * math.sqrt(1 - alpha)


def generate(
    x: torch.Tensor,
    y: torch.Tensor,
    timesteps: Sequence[int],
    alphas_cumprod: Sequence[float],
    predict: Predict,
    p: float,
) -> States:
    """Denoise float latents through every step."""
    x, y = x.double(), y.double()
    for i, t in enumerate(timesteps):
        a, b = coefficients(alphas_cumprod[i], alphas_cumprod[i + 1])
        if i % 2 == 0:
            x_inter = a * x + b * predict(y, t).double()
            y_inter = a * y + b * predict(x_inter, t).double()
        else:
            y_inter = a * y + b * predict(x, t).double()
            x_inter = a * x + b * predict(y_inter, t).double()
        x = p * x_inter + (1 - p) * y_inter
        y = p * y_inter + (1 - p) * x
    return x, y


def invert(
    x: torch.Tensor,
    y: torch.Tensor,
    timesteps: Sequence[int],
    alphas_cumprod: Sequence[float],
    predict: Predict,
    p: float,
) -> States:
    """Noise float latents through every step: `generate` solved for its arguments, line by line from the last."""
    x, y = x.double(), y.double()
    for i in range(len(timesteps) - 1, -1, -1):
        t = timesteps[i]
        a, b = coefficients(alphas_cumprod[i], alphas_cumprod[i + 1])
        y_inter = (y - (1 - p) * x) / p
        x_inter = (x - (1 - p) * y_inter) / p
        if i % 2 == 0:
            y = (y_inter - b * predict(x_inter, t).double()) / a
            x = (x_inter - b * predict(y, t).double()) / a
        else:
            x = (x_inter - b * predict(y_inter, t).double()) / a
            y = (y_inter - b * predict(x, t).double()) / a
    return x, y


def analytic(latents: torch.Tensor, timestep: int) -> torch.Tensor:
    """A noise prediction in closed form: nonlinear, each value depending on its neighbour and on all channels.

    No value of it changes by more than the largest change of its argument (Lipschitz constant 1): the sine's argument
    weighs 0.6 * 1.5, the mean 0.1.
    """
    coupled = 0.6 * torch.sin(latents + 0.5 * latents.roll(1, -1)) + 0.1 * torch.tanh(latents.mean(1, keepdim=True))
    return coupled * (1 - timestep / 4000)
