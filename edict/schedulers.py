"""Schedulers for pipelines of diffusers that turn a call of the pipeline into an exact inversion or generation.

>>> pipe.scheduler = EDICTScheduler.from_config(pipe.scheduler.config)
>>> start = pipe.scheduler.encode(latents)
>>> pipe(prompt, latents=pipe.scheduler.invert(start), num_inference_steps=50, output_type="latent")
>>> noise = pipe.scheduler.pair
>>> pipe(prompt, latents=pipe.scheduler.generate(noise), num_inference_steps=50, output_type="latent")
>>> pipe.scheduler.pair == start
True
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput

from edict.integration import Integration
from edict.latents_check import LatentsCheck
from edict.lattice import from_lattice, note_sample, to_lattice
from edict.noise_levels import EDICT_KEYS, NoiseLevels, name_of
from edict.pair import Pair
from edict.samplers import SAMPLERS, sampling, with_defaults
from edict.schedule import Schedule, require_executed_steps
from schemas.sampling import Sampling

MORE_STEPS = "use more steps, or a higher strength"


class LatticeScheduler(SchedulerMixin, ConfigMixin):
    """A sampler of `edict.samplers` as a scheduler of diffusers, on integers. It is the base of the three public ones.

    Arm it with `invert` or `generate`, and give the latents that they return to the pipeline's call as `latents`. The
    pipeline runs unchanged, with its guidance, adapters and control networks. Then `pair` is the result. A round trip
    is exact if the network returns the same bits in both calls. That needs the same arguments, batch shape, device and
    libraries.

    `timesteps` has one entry per network call, so EDICT has two per step.
    """

    sampler: ClassVar[str]
    config_name = "scheduler_config.json"
    order = 1
    init_noise_sigma = 1.0
    num_inference_steps: int | None = None
    begin_index: int | None = 0

    def __init__(self, **config: Any) -> None:
        """Create a scheduler from the whole config of another one. `from_config` is the usual way."""
        settings = _settings(self.sampler, config)
        levels = NoiseLevels({"base_scheduler": "DDIMScheduler", **config})
        base = levels.base
        merged = {**base.config, **settings.parameters, "bits": settings.bits, "base_scheduler": type(base).__name__}
        public = {name: value for name, value in merged.items() if not name.startswith("_")}
        self.register_to_config(**public, _class_name=type(self).__name__)
        self._built = self.config, levels
        self._start: Pair | None = None
        self._integration: Integration | None = None
        self._armed: Integration | None = None
        self._strength = 1.0
        self._calls_made, self._check = 0, LatentsCheck()
        self.timesteps = base.timesteps
        self.sigmas = getattr(base, "sigmas", None)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Create a scheduler from the config of any scheduler with betas, or of a flow. `kwargs` are p, gamma, bits.

        Raises:
            ValueError: The scheduler is of another kind, such as EDM's, or a setting has no exact inversion.
        """
        if not isinstance(config, Mapping):
            raise ValueError(
                f"config is of type {type(config).__name__}: give the config of a scheduler, such as "
                f"{cls.__name__}.from_config(pipe.scheduler.config)"
            )
        if unknown := kwargs.keys() - {*config, *EDICT_KEYS}:
            raise ValueError(f"{cls.__name__} has no setting {', '.join(sorted(unknown))}. Leave it out")
        sampling(name=cls.sampler, **{name: kwargs[name] for name in ("p", "gamma") if name in kwargs})
        merged = {name: value for name, value in {**config, **kwargs}.items() if not name.startswith("_")}
        kind, base = config.get("_class_name"), merged.pop("base_scheduler", None)
        if "base_scheduler" not in kwargs and kind not in (None, *(one.__name__ for one in SCHEDULERS)):
            base = kind  # Another scheduler of diffusers keeps our keys in its config, but they do not apply to it.
        named = base or kind or name_of(merged.keys())
        made = cls(base_scheduler=named, **merged)
        return (made, {}) if return_unused_kwargs else made

    @property
    def clean_end(self) -> Schedule:
        """The clean end of every schedule, a schedule without steps."""
        return self._levels.clean_end

    def encode(self, latents: torch.Tensor) -> Pair:
        """Return the clean pair, x == y, of latents, float [N, ...] in the pipeline's own layout.

        Raises:
            NonFinite, LatticeOverflow: A sample has NaN, infinity or a value that is too large.
            ValueError: `latents` is not a floating-point tensor of samples.
        """
        is_tensor = isinstance(latents, torch.Tensor)
        if not is_tensor or not latents.is_floating_point() or latents.ndim < 2 or not latents.numel():
            found = f"{latents.dtype} {[*latents.shape]}" if is_tensor else f"of type {type(latents).__name__}"
            raise ValueError(
                f"latents is {found}: expected a floating-point tensor [N, ...] in the pipeline's own layout, such as "
                "the autoencoder's latents times its scaling_factor"
            )
        end, settings = self.clean_end, with_defaults(_settings(self.sampler, self.config), 0)
        x = to_lattice(latents, end.scale(0), settings.bits or 0).contiguous()
        return Pair(x, x.clone(), end, 0, settings, len(x))

    def invert(self, pair: Pair, *, strength: float = 1.0) -> torch.Tensor:
        """Arm the inversion of a clean pair. Return the latents for the pipeline's call, float32 [N, ...].

        The last `int(steps * strength)` steps of the call are inverted.

        Raises:
            ValueError: The pair is not clean, or its states differ, as they can after an edit.
        """
        self._receive(pair)
        if pair.position != pair.schedule.num_steps:
            raise ValueError(
                f"the pair is at position {pair.position} of {pair.schedule.num_steps} steps: give `invert` a clean "
                "pair, such as `encode` returns"
            )
        if not isinstance(strength, int | float | np.floating) or not 0 < strength <= 1:
            raise ValueError(f"strength is {strength!r}: expected a number above 0 and at most 1")
        if not torch.equal(pair.x, pair.y):
            raise ValueError(
                "the two states of the pair differ, as they do after an edit, and an inversion starts from one state: "
                "encode pair.to_float()[0] first"
            )
        self._start, self._armed, self._strength = pair, None, float(strength)
        return from_lattice(pair.x, pair.schedule.scale(pair.position), pair.bits).float()

    def generate(self, pair: Pair) -> torch.Tensor:
        """Arm the generation from a noise pair. Return the latents for the pipeline's call, float32 [N, ...].

        Raises:
            ValueError: The pair is clean already or belongs to another sampler, no step would call the network, or a
                call of the pipeline cannot regenerate it exactly.
        """
        self._receive(pair)
        if pair.position == pair.schedule.num_steps:
            raise ValueError("the pair is clean: give `generate` a noise pair, such as `pair` is after an inversion")
        if pair.timesteps_without_cfg:
            raise ValueError(
                f"the pair was inverted with guidance_interval={pair.sampling.guidance_interval}, which the call of a "
                "pipeline does not have: use EDICT.generate"
            )
        if pair.batch_size != len(pair):
            raise ValueError(
                f"the pair has {len(pair)} samples and was inverted in batches of {pair.batch_size}, and the last bits "
                f"depend on the batch size: generate all {pair.batch_size} samples of a batch in one call, or use "
                "dataclasses.replace(pair, batch_size=len(pair)) if the result need not be exact"
            )
        integration = Integration(pair, pair.schedule.num_steps)
        if integration.ended:
            raise ValueError(f"no step that the pair has left calls the network: {MORE_STEPS}")
        return self.arm(integration)

    def arm(self, integration: Integration) -> torch.Tensor:
        """Arm an integration that has not ended. Return the latents for the pipeline's call, float32 [N, ...]."""
        self._start, self._armed, self._integration, self._calls_made = integration.pair, integration, None, 0
        return integration.latents.float()

    @property
    def integration(self) -> Integration:
        """The integration of the last call of the pipeline.

        Raises:
            RuntimeError: There was no call.
        """
        if self._integration is None:
            raise RuntimeError("the pipeline has not called set_timesteps: call the pipeline first")
        return self._integration

    @property
    def pair(self) -> Pair:
        """The pair at the end of the last call of the pipeline.

        Raises:
            RuntimeError: No call has ended since `invert` or `generate`, or a call changed the latents between steps.
            NonFinite, LatticeOverflow: The network predicted NaN, or a state left the lattice's range.
        """
        integration = self._integration
        if integration is None or not integration.ended:
            calls = f"{self._calls_made} of {len(self.timesteps)} calls were made"
            progress = "no step was made" if integration is None else calls
            raise RuntimeError(
                f"the run has not ended ({progress}): call the pipeline with the latents that `invert` or `generate` "
                "returns"
            )
        self._raise_faults(integration)
        return integration.pair

    def _raise_faults(self, integration: Integration) -> None:
        """Check a run that has ended. This waits for the device.

        Raises:
            RuntimeError: The pipeline changed the latents between steps.
            NonFinite, LatticeOverflow: The network predicted NaN, or a state left the lattice's range.
        """
        self._check.raise_if_changed()
        for i, fault in integration.monitor.faults(integration.pair.bits).items():
            raise note_sample(fault, i, len(integration.pair))

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Set the timesteps of the armed run, one per network call. Pipelines call this.

        Raises:
            RuntimeError: No pair is armed.
            ValueError: The schedule is not that of the armed noise pair.
        """
        start, self._integration = self._start, None
        if start is None:
            raise RuntimeError(
                f"no pair is armed: give the pipeline latents=pipe.scheduler.invert(pair), or generate(pair). "
                f"{type(self).__name__} does not draw noise"
            )
        if device is not None:
            start = start.to(torch.device(device))
        armed, saved = self._armed, start.sampling
        steps = _num_steps(num_inference_steps, timesteps, sigmas)
        if armed is not None and steps != saved.steps:
            raise ValueError(
                f"the pair was inverted with {saved.steps} steps (strength {saved.strength:g}), and this call has "
                f"{steps}: give num_inference_steps={saved.steps}"
            )
        count = require_executed_steps(steps, self._strength) if armed is None else start.schedule.num_steps
        schedule = self._requested_schedule(num_inference_steps, count, timesteps, sigmas, mu)
        if (encoded := start.schedule.alphas_cumprod[-1]) != (alpha := schedule.alphas_cumprod[-1]):
            raise ValueError(
                f"the pair was encoded for a final cumulative alpha of {encoded:.6g}, and the scheduler's is "
                f"{alpha:.6g}: encode the latents by this scheduler, or give it the set_alpha_to_one of the other one"
            )
        if armed is None:
            integration = self._begin_inversion(start, schedule, steps)
        elif schedule != start.schedule:
            raise ValueError(
                f"the pair was inverted at other noise levels than those of this call, both of {steps} steps: give the "
                "call the size, sigmas, timesteps and mu of the inversion, and the scheduler the same config"
            )
        elif self._calls_made or armed.pair.x.device != start.x.device:
            self._armed = integration = Integration(start, armed.to, on_answer=armed.on_answer)
        else:
            integration = armed
        self._integration = integration
        self._set_levels(integration, device)
        self._calls_made, self._check = 0, LatentsCheck(start.x.device)

    def _begin_inversion(self, start: Pair, schedule: Schedule, steps: int) -> Integration:
        settings = _settings(self.sampler, {**self.config, "bits": start.bits})
        settings = settings.model_copy(update={"steps": steps, "strength": self._strength})
        settings, position = with_defaults(settings, schedule.num_steps), schedule.num_steps
        start = replace(start, schedule=schedule, position=position, sampling=settings, batch_size=len(start))
        return Integration(start, 0)

    def _set_levels(self, integration: Integration, device: str | torch.device | None) -> None:
        """Set the timesteps and sigmas of the network calls of an integration, for the loop of the pipeline."""
        pair, schedule = integration.pair, integration.pair.schedule
        sampler = SAMPLERS[pair.sampling.name]
        steps = sampler.evaluated_steps(schedule, pair.position, integration.to)
        if not steps or not sampler.evaluated_steps(schedule, 0, schedule.num_steps):
            raise ValueError(f"no step of {schedule.num_steps} by {self.sampler} calls the network: {MORE_STEPS}")
        dtype = torch.float32 if self._levels.is_flow else torch.int64
        levels = [schedule.sigma(i) for i in (*steps, integration.to)]
        self.timesteps = torch.tensor([schedule.timestep(i) for i in steps], dtype=dtype, device=device)
        self.sigmas = torch.tensor(levels, dtype=torch.float32)
        self.num_inference_steps = schedule.num_steps

    def scale_model_input(self, sample: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the latents as they are."""
        return sample

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Accept the index of the first step, as pipelines give it, if it is 0.

        Raises:
            ValueError: It is not 0.
        """
        if begin_index:
            raise ValueError(f"begin_index is {begin_index}: give a lower strength to `invert` instead")

    @property
    def step_index(self) -> int:
        """The number of network calls that were answered."""
        return self._calls_made

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        *args: Any,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        """Take the prediction for `sample`. Return the latents for the next network call, or the final ones.

        Raises:
            RuntimeError: The run has ended, or never began. At the last step: the pipeline changed the latents.
            ValueError: The latents have another shape than the pair.
            NonFinite, LatticeOverflow: At the last step, as for `pair`.
        """
        integration = self._integration
        if integration is None or integration.query is None:
            self._integration = None
            raise RuntimeError(
                "step was called without a run: arm one with `invert` or `generate`, and call the pipeline"
            )
        query = integration.query
        channels = query.state.shape[1]
        if self.config.get("variance_type") in ("learned", "learned_range") and model_output.shape[1] == 2 * channels:
            model_output = model_output[:, :channels]  # The other channels are a variance, which no step uses.
        if sample.shape != query.state.shape or model_output.shape != query.state.shape:
            raise ValueError(
                f"the pair is {[*query.state.shape]}, the pipeline's latents are {[*sample.shape]} and its prediction "
                f"is {[*model_output.shape]}: encode latents in the pipeline's own layout, as many as its prompts"
            )
        # The latents are rounded to float32 for a pipeline in float64, too, because the first latents are float32, and
        # both directions must round in the same way.
        expected = integration.latents.float().to(sample.dtype)
        self._check.observe(sample, expected, (self.timesteps[self._calls_made] == timestep).all())
        integration.answer(self._levels.prediction(model_output, integration.latents, integration.timestep))
        self._calls_made += 1
        if integration.ended:
            pair = integration.pair
            self._start = None
            self._raise_faults(integration)
            latents = from_lattice(pair.x, pair.scales[0], pair.bits).to(sample.dtype)
        else:
            latents = integration.latents.float().to(sample.dtype)
        return SchedulerOutput(prev_sample=latents) if return_dict else (latents,)

    def add_noise(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Raise an error, because no noise is drawn.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(
            f"{type(self).__name__} does not add random noise: it inverts latents. Use a text-to-image pipeline, with "
            "the latents that `invert` returns"
        )

    scale_noise = add_noise

    @property
    def _levels(self) -> NoiseLevels:
        """The noise levels of `config`, which pipelines can replace."""
        if self._built[0] is not self.config:
            self._built = self.config, NoiseLevels(self.config)
        return self._built[1]

    def _receive(self, pair: Any) -> None:
        """Disarm the scheduler, and check a pair to be armed.

        Raises:
            ValueError: It is not a pair, or belongs to another sampler.
        """
        # The scheduler is disarmed first, so that `pair` is not the former result if the check fails.
        self._start = self._integration = None
        if not isinstance(pair, Pair):
            raise ValueError(f"pair is of type {type(pair).__name__}: expected a Pair, such as `encode` returns")
        if (name := pair.sampling.name) != self.sampler:
            raise ValueError(
                f"the pair is of the sampler {name}, and {type(self).__name__} is for {self.sampler}: use the "
                "scheduler of the pair's sampler"
            )

    def _requested_schedule(self, *arguments: Any) -> Schedule:
        """Return the schedule that a pipeline requests, by the arguments of `NoiseLevels.schedule`."""
        return self._levels.schedule(*arguments)


class EDICTScheduler(LatticeScheduler):
    """EDICT (Wallace et al., CVPR 2023): two coupled states, two network calls per step. Settings: `p` and `bits`."""

    sampler = "edict"
    order = 2


class BDIAScheduler(LatticeScheduler):
    """BDIA (Zhang et al., ECCV 2024): a two-step method, one network call per step. Settings: `gamma` and `bits`."""

    sampler = "bdia"


class OBELMScheduler(LatticeScheduler):
    """O-BELM (Wang et al., NeurIPS 2024): a two-step method, one network call per step. Setting: `bits`."""

    sampler = "obelm"


SCHEDULERS = (EDICTScheduler, BDIAScheduler, OBELMScheduler)


class ScheduleFound(Exception):
    """The exception with which a `ScheduleProbe` ends the call of a pipeline."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule


class ScheduleProbe(EDICTScheduler):
    """A scheduler that ends the pipeline's call by ScheduleFound, with the schedule of the armed inversion."""

    def _requested_schedule(self, *arguments: Any) -> Schedule:
        raise ScheduleFound(super()._requested_schedule(*arguments))


def _num_steps(steps: Any, *levels: Sequence[float] | None) -> int:
    """Return the number of steps of a call, which has no `steps` if it gives timesteps or sigmas.

    Raises:
        ValueError: It is not a whole number of at least 1.
    """
    if steps is None:
        steps = max((len(one) for one in levels if one is not None), default=None)
    if not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(f"num_inference_steps is {steps!r}: expected a whole number of at least 1")
    return int(steps)


def _settings(sampler: str, config: Mapping[str, Any]) -> Sampling:
    """Return the sampler's settings in a config. The guidance scale is unknown, because the pipeline has it.

    Raises:
        ValueError: A setting is out of its range.
    """
    names = ("bits", *SAMPLERS[sampler].parameters)
    return sampling(name=sampler, guidance_scale=None, **{name: config.get(name) for name in names})
