"""The noise levels of a scheduler of diffusers, from its config, and the predictions at these noise levels."""

from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from inspect import signature
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler

from edict.schedule import (
    FLOW_END,
    NOISE_SCHEDULERS,
    Schedule,
    last_steps,
    noise_of_velocity,
    noise_schedule,
)

SHIFTED_SCHEDULERS = frozenset({"CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"})
"""The schedulers of diffusers with betas and a shift of the noise levels."""
FLOW_SCHEDULERS = frozenset(
    {"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"}
)
SUPPORTED = FLOW_SCHEDULERS | NOISE_SCHEDULERS | SHIFTED_SCHEDULERS
PREDICTIONS = ("epsilon", "v_prediction", "sample")
EDICT_KEYS = ("p", "gamma", "bits", "base_scheduler")
"""The keys of a config that no scheduler of diffusers has."""


def _defaults(named: str) -> dict[str, Any]:
    """Return the settings of a scheduler of diffusers, with their defaults."""
    parameters = signature(getattr(import_module("diffusers"), named).__init__).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def name_of(keys: Collection[str]) -> str:
    """Return the name of the supported scheduler of diffusers with exactly these settings.

    The config of a loaded scheduler has the name of its class. The config of one made from arguments does not.

    Raises:
        ValueError: No supported scheduler has these settings.
    """
    for name in sorted(SUPPORTED):
        if _defaults(name).keys() == {*keys} - {*EDICT_KEYS}:
            return name
    raise ValueError(
        "the config has no `_class_name`, and its settings are those of no supported scheduler: give "
        "base_scheduler='DDIMScheduler', or the name of another scheduler of diffusers"
    )


def base_scheduler(config: Mapping[str, Any]) -> Any:
    """Return the scheduler of diffusers that gives the noise levels of a config.

    Raises:
        ValueError: The scheduler is of an unsupported kind, or has a setting that is not supported.
    """
    named = config["base_scheduler"]
    if named not in SUPPORTED:
        raise ValueError(
            f"{named} has noise levels of another kind, which is not supported. Supported are schedulers with betas "
            f"({', '.join(sorted(NOISE_SCHEDULERS | SHIFTED_SCHEDULERS))}), those with use_flow_sigmas, and "
            f"{', '.join(sorted(FLOW_SCHEDULERS))}"
        )
    defaults = _defaults(named)
    if config.get("stochastic_sampling"):
        raise ValueError(
            f"{named} has stochastic_sampling: true, which has no exact inversion on the lattice. Set it to false"
        )
    kind: Any = CogVideoXDDIMScheduler if named in SHIFTED_SCHEDULERS else DDIMScheduler
    predictions: Collection[str] = PREDICTIONS
    if named in FLOW_SCHEDULERS:
        kind, predictions = FlowMatchEulerDiscreteScheduler, ()
    elif config.get("use_flow_sigmas") and "use_flow_sigmas" in defaults:
        kind, predictions = getattr(import_module("diffusers"), named), ("flow_prediction",)
    elif config.get("timestep_type") == "continuous":
        raise ValueError(
            f"{named} has timestep_type: continuous, so the network takes logarithms of noise levels, which is not "
            "supported. Use a checkpoint that was trained on timesteps"
        )
    base = kind.from_config({name: value for name, value in {**defaults, **config}.items() if name not in EDICT_KEYS})
    if predictions and (found := base.config.prediction_type) not in predictions:
        raise ValueError(f"prediction_type of {named} is {found!r}: expected {', '.join(predictions)}")
    return base


def _flow_schedule(base: Any, steps: int | None, count: int, kwargs: dict[str, Any]) -> Schedule:
    """Return the last `count` steps of a flow, as a pipeline requests them.

    `steps` and `kwargs` (timesteps, sigmas, mu) are the pipeline's arguments of `set_timesteps`.

    Raises:
        ValueError: The scheduler does not take one of them, or the noise levels do not go from noise to clean.
    """
    if base.config.get("use_dynamic_shifting") and "mu" not in kwargs:
        raise ValueError(
            "the config has use_dynamic_shifting: true, and the pipeline gives no mu to a scheduler of this class: use "
            "from_config(config, use_dynamic_shifting=False, shift=math.exp(mu)) with the mu of the size"
        )
    if unknown := kwargs.keys() - signature(base.set_timesteps).parameters.keys():
        raise ValueError(f"{type(base).__name__} takes no {', '.join(sorted(unknown))}: give num_inference_steps")
    if "sigmas" in kwargs:
        kwargs = {**kwargs, "sigmas": np.asarray(kwargs["sigmas"])}
    if base.config.get("shift_terminal") and 1 in (
        steps,
        *(len(kwargs[name]) for name in ("sigmas", "timesteps") if name in kwargs),
    ):
        raise ValueError(
            f"steps is 1, and the scheduler has shift_terminal: {base.config.shift_terminal}, which has no noise "
            "levels for one step. Use at least 2 steps"
        )
    base.set_timesteps(steps, **kwargs)
    plan = last_steps(base, count)
    levels = [plan.sigma(i) for i in range(count + 1)]
    *changes, last = (after - before for before, after in pairwise(levels))
    direction = 1 if base.config.get("invert_sigmas") else -1
    # The last step may change nothing, as with final_sigmas_type: sigma_min.
    if not (all(change * direction > 0 for change in changes) and last * direction >= 0):
        raise ValueError(
            f"the noise levels are {', '.join(f'{level:g}' for level in levels)}: expected finite ones that change at "
            "each step, from noise to clean. Check the sigmas of the call"
        )
    return plan


class NoiseLevels:
    """The noise levels of a config, and the network's predictions at them."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the scheduler of diffusers that gives the noise levels.

        Raises:
            ValueError: The scheduler is of an unsupported kind, or has a setting that is not supported.
        """
        self.base = base_scheduler(config)
        self.is_flow = not isinstance(self.base, (DDIMScheduler, CogVideoXDDIMScheduler))

    @property
    def clean_end(self) -> Schedule:
        """The clean end of every schedule, a schedule without steps."""
        if not self.is_flow:
            return Schedule((), (float(self.base.final_alpha_cumprod),))
        return Schedule((), (1.0,), (1.0,)) if self.base.config.get("invert_sigmas") else FLOW_END

    def schedule(
        self,
        steps: int | None,
        count: int,
        timesteps: Sequence[float] | None,
        sigmas: Sequence[float] | None,
        mu: float | None,
    ) -> Schedule:
        """Return the last `count` steps of the schedule that a pipeline requests by the arguments of `set_timesteps`.

        Raises:
            ValueError: There is no such schedule.
        """
        if not self.is_flow:
            if timesteps is not None or sigmas is not None or steps is None:
                raise ValueError("custom timesteps and sigmas are only for flows: give num_inference_steps")
            return noise_schedule(dict(self.base.config), steps, count / steps)
        kwargs = {"timesteps": timesteps, "sigmas": sigmas, "mu": mu}
        return _flow_schedule(self.base, steps, count, {name: one for name, one in kwargs.items() if one is not None})

    def prediction(self, output: torch.Tensor, latents: torch.Tensor, timestep: float) -> torch.Tensor:
        """Return the noise, or the velocity of a flow, in the output of the network, float32 or float64 [N, ...].

        `latents` are float64 [N, ...] in the model's scale. The alpha is that of `timestep`.
        """
        kind = "velocity" if self.is_flow else self.base.config.prediction_type
        if kind in ("velocity", "epsilon"):
            return output.float() if output.dtype != torch.float64 else output
        alpha = float(self.base.alphas_cumprod[int(timestep)].double())
        if kind == "v_prediction":
            return noise_of_velocity(output, latents, alpha)
        noise: torch.Tensor = (latents - alpha**0.5 * output.double()) / (1 - alpha) ** 0.5
        return noise
