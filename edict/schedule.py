"""The executed steps of a checkpoint's noise schedule, from the noisy end to the clean end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from schemas.sampling import Sampling, count_executed_steps

if TYPE_CHECKING:
    import torch

NOISE_SCHEDULERS = frozenset(
    {
        "DDIMParallelScheduler",
        "DDIMScheduler",
        "DDPMParallelScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSDEScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LCMScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "SASolverScheduler",
        "TCDScheduler",
        "UniPCMultistepScheduler",
    }
)
"""The schedulers of diffusers with betas. All have the same noise levels as DDIM."""


@dataclass(frozen=True, repr=False)
class Schedule:
    """The executed steps, counted from the noisy end.

    Position 0 is the noisy end, and position `num_steps` the clean end. Step i goes from position i to i + 1 and calls
    the network at `timesteps[i]`. It adds (sigma' - sigma) * prediction to x / scale.

    Attributes:
        timesteps: The timestep of each step.
        alphas_cumprod: The cumulative alpha at each position. In a flow, all are 1.
        sigmas: The noise level at each position of a flow; None means those of the alphas.
    """

    timesteps: tuple[float, ...]
    alphas_cumprod: tuple[float, ...]
    sigmas: tuple[float, ...] | None = None

    def __repr__(self) -> str:
        return f"Schedule({self.num_steps} steps{'' if self.sigmas is None else ' of a flow'})"

    @property
    def num_steps(self) -> int:
        """The number of steps."""
        return len(self.timesteps)

    @property
    def num_evaluated_steps(self) -> int:
        """The number of steps that call the network: all, or all but a last step between equal noise levels."""
        return self.num_steps - (self.num_steps > 0 and self.sigma(self.num_steps - 1) == self.sigma(self.num_steps))

    def alpha(self, position: int) -> float:
        """Return the cumulative alpha of a state at `position`."""
        return self.alphas_cumprod[position]

    def scale(self, position: int) -> float:
        """Return sqrt(alpha), the divisor of x at `position`. In a flow it is 1."""
        return float(self.alphas_cumprod[position] ** 0.5)

    def sigma(self, position: int) -> float:
        """Return the noise level of x / scale at `position`: sqrt(1 - alpha) / sqrt(alpha), or that of the flow."""
        if self.sigmas is not None:
            return self.sigmas[position]
        alpha = self.alphas_cumprod[position]
        return math.sqrt(1 - alpha) / math.sqrt(alpha)

    def timestep(self, position: int) -> float:
        """Return the timestep of a state at `position`: that of the step from there, or 0 at the clean end."""
        return self.timesteps[position] if position < self.num_steps else 0

    def timesteps_outside(self, interval: Sequence[float] | None) -> frozenset[float]:
        """Return the timesteps of the noise levels outside `interval`, (low, high]; none if there is no interval."""
        if interval is None:
            return frozenset()
        # The last step can have timestep 0, as the clean end has. The reversed order keeps the noise level of the step.
        levels = {self.timestep(k): self.sigma(k) for k in reversed(range(self.num_steps + 1))}
        return frozenset(timestep for timestep, sigma in levels.items() if not interval[0] < sigma <= interval[1])


FLOW_END = Schedule((), (1.0,), (0.0,))
"""The clean end of every flow."""


def noise_schedule(
    scheduler_config: dict[str, Any], steps: int, strength: float = 1.0, steps_offset: int | None = None
) -> Schedule:
    """Return the last `count_executed_steps(steps, strength)` timesteps of a checkpoint's scheduler config.

    The cumulative alphas are those of the scheduler, in float64. The last step goes to its final alpha, which depends
    on set_alpha_to_one. `steps_offset` replaces that of the config, and is only valid for leading spacing.

    Raises:
        ValueError: No step would be executed, or the scheduler cannot have this number of steps, or has no offset.
    """
    count = require_executed_steps(steps, strength)
    scheduler = _ddim(scheduler_config)
    if steps_offset is not None:
        if (spacing := scheduler.config.timestep_spacing) != "leading":
            raise ValueError(
                f"steps_offset is only valid for leading spacing, and the checkpoint's is {spacing}. Leave it out"
            )
        scheduler.register_to_config(steps_offset=steps_offset)
    trained = scheduler.config.num_train_timesteps
    if steps > trained:
        raise ValueError(f"steps is {steps}, and the checkpoint was trained with {trained}. Use at most {trained}")
    scheduler.set_timesteps(steps)
    timesteps = [int(t) for t in scheduler.timesteps[steps - count :]]
    if min(timesteps) < 0 or max(timesteps) >= trained:
        raise ValueError(
            f"{steps} steps do not fit the checkpoint's {trained} timesteps: they would go from {max(timesteps)} to "
            f"{min(timesteps)}. Use fewer steps, a divisor of {trained}, or a smaller steps_offset"
        )
    alphas = scheduler.alphas_cumprod.double()
    if (alphas[timesteps] == 0).any():
        raise ValueError(
            f"{steps} steps begin at pure noise (zero terminal SNR), where x / sqrt(alpha) does not exist. Lower the "
            "strength, so that the first step is not executed"
        )
    return Schedule(tuple(timesteps), (*(float(alphas[t]) for t in timesteps), final_alpha(scheduler_config)))


def alphas_cumprod(scheduler_config: dict[str, Any]) -> torch.Tensor:
    """Return the cumulative alpha of every timestep that the checkpoint was trained with, float64."""
    alphas: torch.Tensor = _ddim(scheduler_config).alphas_cumprod.double()
    return alphas


def flow_schedule(
    scheduler_config: dict[str, Any], sampling: Sampling, *, tokens: int, sigmas: NDArray[Any] | None = None
) -> Schedule:
    """Return the last `sampling.executed_steps` steps of FlowMatchEulerDiscreteScheduler, down to sigma 0.

    `tokens` is the sequence length of an image, which determines the dynamic shift (Esser et al., 2403.03206, 5.3.2).
    `sigmas` are the noise levels before the shift; None means those of the scheduler.

    Raises:
        ValueError: There is a `steps_offset`, which is not valid for a flow.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    if sampling.steps_offset is not None:
        raise ValueError(
            "steps_offset is only valid for schedules of timesteps, and the checkpoint is a flow. Leave it out"
        )
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(scheduler_config)
    config = scheduler.config
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    mu = config.base_shift + slope * (tokens - config.base_image_seq_len)
    scheduler.set_timesteps(sampling.steps, sigmas=sigmas, mu=mu if config.use_dynamic_shifting else None)
    return last_steps(scheduler, sampling.executed_steps)


def last_steps(scheduler: Any, count: int) -> Schedule:
    """Return the last `count` steps of a flow's scheduler of diffusers, after its `set_timesteps`."""
    timesteps, levels = scheduler.timesteps.double().tolist(), scheduler.sigmas.double().tolist()
    return Schedule(tuple(timesteps[-count:]), (1.0,) * (count + 1), tuple(levels[-count - 1 :]))


def noise_of_velocity(velocity: torch.Tensor, latents: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the noise in a v-prediction (Salimans & Ho, 2202.00512): sqrt(alpha) v + sqrt(1 - alpha) x, float64."""
    noise: torch.Tensor = alpha**0.5 * velocity.double() + (1 - alpha) ** 0.5 * latents.double()
    return noise


def require_executed_steps(steps: int, strength: float) -> int:
    """Return the number of executed steps, int(steps * strength).

    Raises:
        ValueError: It is 0.
    """
    if (count := count_executed_steps(steps, strength)) < 1:
        raise ValueError(f"{steps} steps at strength {strength} execute no step: raise the steps or the strength")
    return count


def final_alpha(scheduler_config: dict[str, Any]) -> float:
    """Return the cumulative alpha of a clean latent."""
    return float(_ddim(scheduler_config).final_alpha_cumprod)


def _ddim(scheduler_config: dict[str, Any]) -> Any:
    """Return the DDIMScheduler of a config, or that of CogVideoX, which shifts the alphas."""
    # A stored Schedule does not need this import, which takes seconds.
    from diffusers import CogVideoXDDIMScheduler, DDIMScheduler

    kind = CogVideoXDDIMScheduler if "snr_shift_scale" in scheduler_config else DDIMScheduler
    return kind.from_config(scheduler_config)
