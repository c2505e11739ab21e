"""When the network is called: the executed steps of a checkpoint's own noise schedule, noisy end first."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler


@dataclass(frozen=True)
class Schedule:
    """The steps that are executed, counted from the noisy end.

    Step i goes from noise level `alphas_cumprod[i]` to `alphas_cumprod[i + 1]` and calls the network at `timesteps[i]`.
    So `alphas_cumprod` has one entry more than `timesteps`: position 0 is the noisy end, `depth` the clean one.
    """

    timesteps: tuple[int, ...]
    alphas_cumprod: tuple[float, ...]

    @property
    def depth(self) -> int:
        return len(self.timesteps)

    def alpha(self, position: int) -> float:
        """The cumulative alpha a state has at `position`."""
        return self.alphas_cumprod[position]

    def sigma(self, position: int) -> float:
        """sqrt(1 - alpha) / sqrt(alpha): the noise level of x / sqrt(alpha) at `position`."""
        alpha = self.alphas_cumprod[position]
        return math.sqrt(1 - alpha) / math.sqrt(alpha)


def executed(steps: int, strength: float) -> int:
    """How many of `steps` are executed at `strength`: int(steps * strength), as in the paper's code."""
    return math.floor(steps * strength + 1e-9)


def schedule(scheduler_config: dict[str, Any], steps: int, strength: float = 1.0) -> Schedule:
    """The last `executed(steps, strength)` of `steps` timesteps that the checkpoint's scheduler config spaces.

    The cumulative alphas are the scheduler's, in float64. The last step goes to its final alpha (set_alpha_to_one).
    Raises ValueError where nothing would be executed or the scheduler has no such number of steps.
    """
    depth = executed(steps, strength)
    if depth < 1:
        raise ValueError(f"{steps} steps at strength {strength} execute no step: raise the steps or the strength")
    scheduler = DDIMScheduler.from_config(scheduler_config)
    trained = scheduler.config.num_train_timesteps
    if steps > trained:
        raise ValueError(f"{steps} steps were asked for, the checkpoint was trained with {trained}")
    scheduler.set_timesteps(steps)
    timesteps = [int(t) for t in scheduler.timesteps[steps - depth :]]
    if min(timesteps) < 0 or max(timesteps) >= trained:
        raise ValueError(
            f"{steps} steps do not fit the checkpoint's {trained} timesteps: use fewer, a divisor of {trained}"
        )
    alphas_cumprod = scheduler.alphas_cumprod.double()
    return Schedule(tuple(timesteps), (*(float(alphas_cumprod[t]) for t in timesteps), final_alpha(scheduler_config)))


def final_alpha(scheduler_config: dict[str, Any]) -> float:
    """The cumulative alpha of a clean latent."""
    return float(torch.as_tensor(DDIMScheduler.from_config(scheduler_config).final_alpha_cumprod).double())
