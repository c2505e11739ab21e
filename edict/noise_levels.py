"""The noise levels of a scheduler of diffusers, from its config."""

from collections.abc import Collection, Mapping
from importlib import import_module
from inspect import signature
from itertools import pairwise
from typing import Any

import numpy as np
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler

from edict.schedule import NOISE_SCHEDULERS, Schedule, last_steps

SHIFTED_SCHEDULERS = frozenset({"CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"})
"""The schedulers of diffusers with betas and a shift of the noise levels."""
FLOW_SCHEDULERS = frozenset(
    {"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"}
)
SUPPORTED = FLOW_SCHEDULERS | NOISE_SCHEDULERS | SHIFTED_SCHEDULERS
PREDICTIONS = ("epsilon", "v_prediction", "sample")
OWN = ("p", "gamma", "bits", "base_scheduler")
"""The keys of a config that no scheduler of diffusers has."""


def _defaults(named: str) -> dict[str, Any]:
    """Return the settings of a scheduler of diffusers, with their defaults."""
    parameters = signature(getattr(import_module("diffusers"), named).__init__).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def name_of(keys: Collection[str]) -> str:
    """Return the name of the supported scheduler of diffusers with exactly these settings. Raises ValueError.

    The config of a scheduler that was loaded has its class's name; that of one made from arguments does not.
    """
    for name in sorted(SUPPORTED):
        if _defaults(name).keys() == {*keys} - {*OWN}:
            return name
    raise ValueError(
        "the config has no `_class_name`, and its settings are those of no supported scheduler: give "
        "base_scheduler='DDIMScheduler', or the name of another scheduler of diffusers"
    )


def base_scheduler(config: Mapping[str, Any]) -> Any:
    """Return the scheduler of diffusers that gives the noise levels of a config. Raises ValueError."""
    named = config["base_scheduler"]
    if named not in SUPPORTED:
        raise ValueError(
            f"{named} has noise levels of a kind of its own. Supported are schedulers with betas "
            f"({', '.join(sorted(NOISE_SCHEDULERS | SHIFTED_SCHEDULERS))}), those with use_flow_sigmas, and "
            f"{', '.join(sorted(FLOW_SCHEDULERS))}"
        )
    defaults = _defaults(named)
    if config.get("stochastic_sampling"):
        raise ValueError(f"{named} has stochastic_sampling: true, which has no exact inversion on the lattice")
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
    base = kind.from_config({name: value for name, value in {**defaults, **config}.items() if name not in OWN})
    if predictions and (found := base.config.prediction_type) not in predictions:
        raise ValueError(f"prediction_type of {named} is {found!r}: expected {', '.join(predictions)}")
    return base


def pipeline_flow_schedule(base: Any, steps: int | None, count: int, given: dict[str, Any]) -> Schedule:
    """Return the last `count` steps of a flow. `steps` and `given` (timesteps, sigmas, mu) are the pipeline's.

    Raises:
        ValueError: the scheduler does not take one of them, or the noise levels do not go from noise to clean.
    """
    if base.config.get("use_dynamic_shifting") and "mu" not in given:
        raise ValueError(
            "the config has use_dynamic_shifting: true, and the pipeline gives no mu to a scheduler of this class: use "
            "from_config(config, use_dynamic_shifting=False, shift=math.exp(mu)) with the mu of the size"
        )
    if unknown := given.keys() - signature(base.set_timesteps).parameters.keys():
        raise ValueError(f"{type(base).__name__} takes no {', '.join(sorted(unknown))}: give num_inference_steps")
    if "sigmas" in given:
        given = {**given, "sigmas": np.asarray(given["sigmas"])}
    base.set_timesteps(steps, **given)
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
