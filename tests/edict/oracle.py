"""The samplers in float64, from the equations of the papers, without code of `edict`: the reference of the lattice.

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
    """Return a and b of the DDIM step, x_prev = a x + b eps."""
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
    """Add noise to float latents through every step: solve each line of `generate` for its argument, from the last."""
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
    """Return a nonlinear prediction in closed form. Each value depends on its neighbour and on all channels.

    No value of it changes by more than the largest change of its argument (Lipschitz constant 1): the sine's argument
    weighs 0.6 * 1.5, the mean 0.1.
    """
    coupled = 0.6 * torch.sin(latents + 0.5 * latents.roll(1, -1)) + 0.1 * torch.tanh(latents.mean(1, keepdim=True))
    return coupled * (1 - timestep / 4000)


def ddim(x: torch.Tensor, eps: torch.Tensor, alpha: float, alpha_to: float) -> torch.Tensor:
    """Return x after a DDIM step from one cumulative alpha to another, in either direction."""
    a, b = coefficients(alpha, alpha_to)
    return a * x + b * eps.double()


def invert_ddim(
    clean: torch.Tensor, timesteps: Sequence[int], alphas_cumprod: Sequence[float], predict: Predict, *, euler: bool
) -> torch.Tensor:
    """Invert by DDIM, with the timestep of the next state, or with `euler` that of the present state.

    A noise level has the timestep of the generation step that starts there. The clean end has 0.
    """
    own = dict(zip(alphas_cumprod, timesteps, strict=False))
    x = clean
    for here, there in zip(reversed(alphas_cumprod[1:]), reversed(alphas_cumprod[:-1]), strict=True):
        timestep = own.get(here, 0) if euler else own[there]
        x = ddim(x, predict(x, timestep), here, there)
    return x


def bdia(
    before: torch.Tensor, x: torch.Tensor, eps: torch.Tensor, alphas: Sequence[float], gamma: float
) -> torch.Tensor:
    """Zhang, Lewis, Kleijn, 2307.10829: z_(i-1) of z_(i+1), z_i; `alphas` are those of i+1, i and i-1.

    Both integrals by DDIM, that back to i+1 weighed with gamma against what the last step made of the same slot.
    """
    back, on = ddim(x, eps, alphas[1], alphas[0]), ddim(x, eps, alphas[1], alphas[2])
    return before - (1 - gamma) * (before - x) - gamma * (back - x) + (on - x)


def bdia_back(
    after: torch.Tensor, x: torch.Tensor, eps: torch.Tensor, alphas: Sequence[float], gamma: float
) -> torch.Tensor:
    """Return z_(i+1) of z_i and z_(i-1): solve `bdia` for it."""
    back, on = ddim(x, eps, alphas[1], alphas[0]), ddim(x, eps, alphas[1], alphas[2])
    return (after - on) / gamma + back


def obelm(before: torch.Tensor, x: torch.Tensor, eps: torch.Tensor, alphas: Sequence[float]) -> torch.Tensor:
    """Wang et al., 2410.07273, O-BELM: x_(i-1) of x_(i+1), x_i; the paper's alpha is the root of the cumulative one."""
    alpha = [math.sqrt(a) for a in alphas]
    sigma = [math.sqrt(1 - a) / math.sqrt(a) for a in alphas]
    h, h_before = sigma[1] - sigma[2], sigma[0] - sigma[1]
    return (
        h**2 / h_before**2 * alpha[2] / alpha[0] * before
        + (h_before**2 - h**2) / h_before**2 * alpha[2] / alpha[1] * x
        - h * (h + h_before) / h_before * alpha[2] * eps.double()
    )


def obelm_back(after: torch.Tensor, x: torch.Tensor, eps: torch.Tensor, alphas: Sequence[float]) -> torch.Tensor:
    """Return x_(i+1) of x_(i-1) and x_i, as in the paper: the formula with the steps in reverse order."""
    alpha = [math.sqrt(a) for a in alphas]
    sigma = [math.sqrt(1 - a) / math.sqrt(a) for a in alphas]
    h, h_before = sigma[1] - sigma[2], sigma[0] - sigma[1]
    return (
        h_before**2 / h**2 * alpha[0] / alpha[2] * after
        + (h**2 - h_before**2) / h**2 * alpha[0] / alpha[1] * x
        + h_before * (h + h_before) / h * alpha[0] * eps.double()
    )


Next = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Sequence[float]], torch.Tensor]


def generate_two_step(
    x: torch.Tensor,
    y: torch.Tensor,
    timesteps: Sequence[int],
    alphas_cumprod: Sequence[float],
    predict: Predict,
    step: Next,
) -> torch.Tensor:
    """Return the clean state, generated from the states at positions 0 and 1."""
    for i in range(1, len(timesteps)):
        x, y = y, step(x, y, predict(y, timesteps[i]), alphas_cumprod[i - 1 : i + 2])
    return y


def invert_two_step(
    clean: torch.Tensor, timesteps: Sequence[int], alphas_cumprod: Sequence[float], predict: Predict, step_back: Next
) -> States:
    """Return the states at positions 0 and 1. The first step from the clean state is a DDIM step."""
    x, y = ddim(clean, predict(clean, timesteps[-1]), alphas_cumprod[-1], alphas_cumprod[-2]), clean
    for i in range(len(timesteps) - 1, 0, -1):
        x, y = step_back(y, x, predict(x, timesteps[i]), alphas_cumprod[i - 1 : i + 2]), x
    return x, y
