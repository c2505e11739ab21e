"""Schedulers of diffusers that make a pipeline's own call an exact inversion or generation.

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
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput

from edict.integration import Integration
from edict.lattice import from_lattice, note_sample, to_lattice
from edict.noise_levels import OWN, base_scheduler, name_of, pipeline_flow_schedule
from edict.pair import Pair
from edict.samplers import SAMPLERS, sampling, with_defaults
from edict.schedule import FLOW_END, Schedule, executed_steps, noise_of_velocity, noise_schedule
from schemas.sampling import Sampling

HALVES = (torch.bfloat16, torch.float16)
MORE_STEPS = "use more steps, or a higher strength"


class LatticeScheduler(SchedulerMixin, ConfigMixin):
    """A sampler of `edict.samplers` as a scheduler of diffusers, on integers: what the three public ones share.

    Arm it with `invert` or `generate`, and give the latents that they return to the pipeline's call as `latents`. The
    call is the pipeline's own: with its guidance, adapters and control networks. Then `pair` is the result. A round
    trip is exact if the network returns the same bits for the same input: the same arguments of the call, batch shape,
    device and libraries.

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
        given = _sampling(self.sampler, config)
        base = base_scheduler({"base_scheduler": "DDIMScheduler", **config})
        merged = {**base.config, **given.parameters, "bits": given.bits, "base_scheduler": type(base).__name__}
        public = {name: value for name, value in merged.items() if not name.startswith("_")}
        self.register_to_config(**public, _class_name=type(self).__name__)
        self._built = self.config, base
        self._start: Pair | None = None
        self._integration: Integration | None = None
        self._armed: Integration | None = None
        self._strength = 1.0
        self._done, self._unchanged = 0, torch.ones(1 + len(HALVES), dtype=torch.bool)
        self.timesteps = base.timesteps
        self.sigmas = getattr(base, "sigmas", None)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], return_unused_kwargs: bool = False, **given: Any) -> Any:
        """Create a scheduler from the config of any scheduler with betas, or of a flow. `given` are p, gamma and bits.

        Raises:
            ValueError: the scheduler is of another kind (such as EDM's), or a setting has no exact inversion.
        """
        if not isinstance(config, Mapping):
            raise ValueError(
                f"config is of type {type(config).__name__}: give the config of a scheduler, such as "
                f"{cls.__name__}.from_config(pipe.scheduler.config)"
            )
        if unknown := given.keys() - {*config, *OWN}:
            raise ValueError(f"{cls.__name__} has no setting {', '.join(sorted(unknown))}: leave it out")
        sampling(name=cls.sampler, **{name: given[name] for name in ("p", "gamma") if name in given})
        merged = {name: value for name, value in {**config, **given}.items() if not name.startswith("_")}
        kind, base = config.get("_class_name"), merged.pop("base_scheduler", None)
        if "base_scheduler" not in given and kind not in (None, *(one.__name__ for one in SCHEDULERS)):
            base = kind  # Another scheduler of diffusers keeps our keys in its config, and they are not about it.
        named = base or kind or name_of(merged.keys())
        made = cls(base_scheduler=named, **merged)
        return (made, {}) if return_unused_kwargs else made

    @property
    def clean_end(self) -> Schedule:
        """The clean end of every schedule."""
        if not self._flow:
            return Schedule((), (float(self._base.final_alpha_cumprod),))
        return Schedule((), (1.0,), (1.0,)) if self._base.config.get("invert_sigmas") else FLOW_END

    def encode(self, latents: torch.Tensor) -> Pair:
        """Return the clean pair, x == y, of latents, float [N, ...] in the pipeline's own layout.

        Raises:
            NonFinite, LatticeOverflow: a sample has NaN, infinity or a value that is too large.
            ValueError: `latents` is not a floating-point tensor of samples.
        """
        tensor = isinstance(latents, torch.Tensor)
        if not tensor or not latents.is_floating_point() or latents.ndim < 2 or not latents.numel():
            found = f"{latents.dtype} {[*latents.shape]}" if tensor else f"of type {type(latents).__name__}"
            raise ValueError(
                f"latents is {found}: expected a floating-point tensor [N, ...] in the pipeline's own layout, such as "
                "the autoencoder's latents times its scaling_factor"
            )
        end, given = self.clean_end, with_defaults(_sampling(self.sampler, self.config), 0)
        x = to_lattice(latents, end.scale(0), given.bits or 0).contiguous()
        return Pair(x, x.clone(), end, 0, given, len(x))

    def invert(self, pair: Pair, *, strength: float = 1.0) -> torch.Tensor:
        """Arm the inversion of a clean pair. Return the latents that the pipeline's call must be given, float32.

        Of the steps of the call, the last `int(steps * strength)` are inverted.

        Raises:
            ValueError: the pair is not clean, or its states differ, as those of an edit may do.
        """
        self._receive(pair)
        if pair.position != pair.schedule.num_steps:
            raise ValueError(
                f"the pair is at position {pair.position} of {pair.schedule.num_steps} steps: invert takes a clean "
                "pair, such as `encode` returns"
            )
        if not isinstance(strength, int | float | np.floating) or not 0 < strength <= 1:
            raise ValueError(f"strength is {strength!r}: expected a number above 0 and at most 1")
        if not torch.equal(pair.x, pair.y):
            raise ValueError(
                "the two states of the pair differ, as they do after an edit, and an inversion starts from one: "
                "encode pair.to_float()[0] first"
            )
        self._start, self._armed, self._strength = pair, None, float(strength)
        return from_lattice(pair.x, pair.schedule.scale(pair.position), pair.bits).float()

    def generate(self, pair: Pair) -> torch.Tensor:
        """Arm the generation from a noise pair. Return the latents that the pipeline's call must be given, float32.

        Raises:
            ValueError: the pair is clean already, or is another sampler's, or no step would call the network, or a
                pipeline's call cannot regenerate it exactly.
        """
        self._receive(pair)
        if pair.position == pair.schedule.num_steps:
            raise ValueError("the pair is clean: generate takes a noise pair, such as an inversion leaves in `pair`")
        if pair.timesteps_without_cfg:
            raise ValueError(
                f"the pair was inverted with guidance_interval={pair.sampling.guidance_interval}, which a pipeline's "
                "call does not have: use EDICT.generate"
            )
        if pair.batch_size != len(pair):
            raise ValueError(
                f"the pair has {len(pair)} samples and was inverted in batches of {pair.batch_size}, and the last bits "
                f"depend on that: generate all {pair.batch_size} samples of a batch in one call, or use "
                "dataclasses.replace(pair, batch_size=len(pair)) if the result need not be exact"
            )
        integration = Integration(pair, pair.schedule.num_steps)
        if integration.ended:
            raise ValueError(f"the steps that the pair has left call the network at none of them: {MORE_STEPS}")
        return self.arm(integration)

    def arm(self, integration: Integration) -> torch.Tensor:
        """Arm an integration that has not ended. Return the latents that the pipeline's call must be given, float32."""
        self._start, self._armed, self._integration, self._done = integration.pair, integration, None, 0
        return integration.latents.float()

    @property
    def integration(self) -> Integration:
        """The integration of the last call of the pipeline. Raises RuntimeError if there was no call."""
        if self._integration is None:
            raise RuntimeError("the pipeline has not called set_timesteps: call the pipeline first")
        return self._integration

    @property
    def pair(self) -> Pair:
        """The pair that the last call of the pipeline ended with.

        Raises:
            RuntimeError: no call has ended since `invert` or `generate`, or a call changed the latents between steps.
            NonFinite, LatticeOverflow: the network predicted NaN, or a state left the lattice's range.
        """
        integration = self._integration
        if integration is None or not integration.ended:
            made = f"{self._done} of {len(self.timesteps)} calls were made"
            done = "no step was made" if integration is None else made
            raise RuntimeError(
                f"the run has not ended ({done}): call the pipeline with the latents that `invert` or `generate` "
                "returns"
            )
        self._check(integration)
        return integration.pair

    def _check(self, integration: Integration) -> None:
        """Raise the error of a run that has ended, if it has one. This waits for the device."""
        if not bool(self._unchanged.any()):
            raise RuntimeError(
                "the pipeline changed the latents between two steps, called `step` out of order, or did not get the "
                "latents that `invert` or `generate` returned, so the run is not exact. Use a pipeline whose loop only "
                "denoises: no inpainting, no refiner, no callback that changes latents"
            )
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
        """List the timesteps of the armed run, one per network call. Called by pipelines.

        Raises:
            RuntimeError: no pair is armed.
            ValueError: the schedule is not that of the armed noise pair.
        """
        start, self._integration = self._start, None
        if start is None:
            raise RuntimeError(
                f"no pair is armed: give the pipeline latents=pipe.scheduler.invert(pair), or generate(pair). "
                f"{type(self).__name__} does not draw noise"
            )
        if device is not None:
            start = start.to(torch.device(device))
        given, integration = start.sampling, self._armed
        count = _count(num_inference_steps, timesteps, sigmas)
        if integration is not None and count != given.steps:
            raise ValueError(
                f"the pair was inverted with {given.steps} steps (strength {given.strength:g}), and this call has "
                f"{count}: give num_inference_steps={given.steps}"
            )
        last = executed_steps(count, self._strength) if integration is None else start.schedule.num_steps
        plan = self._schedule(num_inference_steps, last, timesteps, sigmas, mu)
        if (made := start.schedule.alphas_cumprod[-1]) != (alpha := plan.alphas_cumprod[-1]):
            raise ValueError(
                f"the pair was encoded for a final cumulative alpha of {made:.6g}, and the scheduler's is {alpha:.6g}: "
                "encode the latents by this scheduler, or give it the set_alpha_to_one of the other one"
            )
        if integration is None:
            given = _sampling(self.sampler, {**self.config, "bits": start.bits})
            given = given.model_copy(update={"steps": count, "strength": self._strength})
            given = with_defaults(given, plan.num_steps)
            start = replace(start, schedule=plan, position=plan.num_steps, sampling=given, batch_size=len(start))
            integration = Integration(start, 0)
        elif plan != start.schedule:
            raise ValueError(
                f"the pair was inverted at other noise levels than those of this call, both of {count} steps: give the "
                "call the size, sigmas, timesteps and mu of the inversion, and the scheduler the same config"
            )
        elif self._done or integration.pair.x.device != start.x.device:
            self._armed = integration = Integration(start, integration.to, on_answer=integration.on_answer)
        self._integration, plan = integration, integration.pair.schedule
        ends = integration.pair.position, integration.to
        sampler = SAMPLERS[integration.pair.sampling.name]
        steps = sampler.evaluated_steps(plan, *ends)
        if not steps or not sampler.evaluated_steps(plan, 0, plan.num_steps):
            raise ValueError(f"{plan.num_steps} steps by {self.sampler} call the network at none of them: {MORE_STEPS}")
        dtype = torch.float32 if self._flow else torch.int64
        self.timesteps = torch.tensor([plan.timestep(i) for i in steps], dtype=dtype, device=device)
        self.sigmas = torch.tensor([plan.sigma(i) for i in steps] + [plan.sigma(ends[1])], dtype=torch.float32)
        self.num_inference_steps = plan.num_steps
        # True while no step changed the latents: as they are, rounded to bfloat16, and rounded to float16.
        self._done, self._unchanged = 0, torch.ones(1 + len(HALVES), dtype=torch.bool, device=start.x.device)

    def scale_model_input(self, sample: torch.Tensor, *args: Any, **given: Any) -> torch.Tensor:
        """Return the latents as they are."""
        return sample

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Accept the first index, as pipelines give it. A run always begins with its first step."""
        if begin_index:
            raise ValueError(f"begin_index is {begin_index}: give a lower strength to `invert` instead")

    @property
    def step_index(self) -> int:
        """The number of network calls that were answered."""
        return self._done

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        *args: Any,
        return_dict: bool = True,
        **given: Any,
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        """Take the prediction for `sample`. Return the latents for the next network call, or the final ones.

        Raises:
            RuntimeError: the run has ended, or was never begun; at the last step, the pipeline changed the latents.
            ValueError: the latents have another shape than the pair's.
            NonFinite, LatticeOverflow: at the last step, as for `pair`.
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
            model_output = model_output[:, :channels]  # The rest is a variance, and no step draws noise.
        if sample.shape != query.state.shape or model_output.shape != query.state.shape:
            raise ValueError(
                f"the pair is {[*query.state.shape]}, the pipeline's latents are {[*sample.shape]} and its prediction "
                f"is {[*model_output.shape]}: encode latents in the pipeline's own layout, as many as its prompts"
            )
        # In float32 for a pipeline in float64, too: the first latents are, and both directions must round alike.
        expected = integration.latents.float().to(sample.dtype)
        # A pipeline may round the latents to its network's dtype, and give them here in float32 (Mochi).
        given_as = (sample.dtype, *HALVES)
        same = torch.stack([(sample == expected.to(dtype).to(sample.dtype)).all() for dtype in given_as])
        # Compared on the device, and read at the end: a step must not wait for the device.
        self._unchanged = self._unchanged & same & (self.timesteps[self._done] == timestep).all()
        integration.answer(self._prediction(model_output, integration))
        self._done += 1
        if integration.ended:
            pair = integration.pair
            self._start = None
            self._check(integration)
            latents = from_lattice(pair.x, pair.scales[0], pair.bits).to(sample.dtype)
        else:
            latents = integration.latents.float().to(sample.dtype)
        return SchedulerOutput(prev_sample=latents) if return_dict else (latents,)

    def add_noise(self, *args: Any, **given: Any) -> torch.Tensor:
        """Refuse to draw noise. Raises RuntimeError."""
        raise RuntimeError(
            f"{type(self).__name__} does not add random noise: it inverts latents. Use a text-to-image pipeline, with "
            "the latents that `invert` returns"
        )

    scale_noise = add_noise

    @property
    def _base(self) -> Any:
        """The scheduler of diffusers that gives the noise levels of `config`, which pipelines may replace."""
        if self._built[0] is not self.config:
            self._built = self.config, base_scheduler(self.config)
        return self._built[1]

    @property
    def _flow(self) -> bool:
        return not isinstance(self._base, (DDIMScheduler, CogVideoXDDIMScheduler))

    def _receive(self, pair: Any) -> None:
        """Disarm the scheduler, and check a pair to be armed. Raises ValueError."""
        # First, because `pair` must not be the former result if this pair is refused.
        self._start = self._integration = None
        if not isinstance(pair, Pair):
            raise ValueError(f"pair is of type {type(pair).__name__}: expected a Pair, such as `encode` returns")
        if (name := pair.sampling.name) != self.sampler:
            raise ValueError(
                f"the pair is of the sampler {name}, and {type(self).__name__} is for {self.sampler}: use the "
                "scheduler of the pair's sampler"
            )

    def _schedule(
        self,
        steps: int | None,
        last: int,
        timesteps: Sequence[float] | None,
        sigmas: Sequence[float] | None,
        mu: float | None,
    ) -> Schedule:
        """Return the last steps of the schedule that a pipeline requests."""
        if not self._flow:
            if timesteps is not None or sigmas is not None or steps is None:
                raise ValueError("custom timesteps and sigmas are only for flows: give num_inference_steps")
            return noise_schedule(dict(self._base.config), steps, last / steps)
        given = {"timesteps": timesteps, "sigmas": sigmas, "mu": mu}
        return pipeline_flow_schedule(
            self._base, steps, last, {name: one for name, one in given.items() if one is not None}
        )

    def _prediction(self, output: torch.Tensor, integration: Integration) -> torch.Tensor:
        """Return the noise, or the velocity of a flow, in what the network predicted. The alpha is the timestep's."""
        kind = "velocity" if self._flow else self._base.config.prediction_type
        if kind in ("velocity", "epsilon"):
            return output.float() if output.dtype != torch.float64 else output
        alpha = float(self._base.alphas_cumprod[int(integration.timestep)].double())
        latents = integration.latents
        if kind == "v_prediction":
            return noise_of_velocity(output, latents, alpha)
        return (latents - alpha**0.5 * output.double()) / (1 - alpha) ** 0.5


class EDICTScheduler(LatticeScheduler):
    """EDICT (Wallace et al., CVPR 2023): two coupled states, two network calls per step; settings `p` and `bits`."""

    sampler = "edict"
    order = 2


class BDIAScheduler(LatticeScheduler):
    """BDIA (Zhang et al., ECCV 2024): a two-step method, one network call per step; settings `gamma` and `bits`."""

    sampler = "bdia"


class OBELMScheduler(LatticeScheduler):
    """O-BELM (Wang et al., NeurIPS 2024): a two-step method, one network call per step; setting `bits`."""

    sampler = "obelm"


SCHEDULERS = (EDICTScheduler, BDIAScheduler, OBELMScheduler)


class ScheduleFound(Exception):
    """The exception by which a `ScheduleProbe` ends the call of a pipeline."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule


class ScheduleProbe(EDICTScheduler):
    """A scheduler that ends the pipeline's call by ScheduleFound, with the schedule of the armed inversion."""

    def _schedule(self, *given: Any) -> Schedule:
        raise ScheduleFound(super()._schedule(*given))


def _count(steps: Any, *levels: Sequence[float] | None) -> int:
    """Return the number of steps of a call, which has no `steps` if it gives timesteps or sigmas. Raises ValueError."""
    if steps is None:
        steps = max((len(given) for given in levels if given is not None), default=None)
    if not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(f"num_inference_steps is {steps!r}: expected a whole number of at least 1")
    return int(steps)


def _sampling(sampler: str, config: Mapping[str, Any]) -> Sampling:
    """Return the sampler's settings in a config. The guidance is the pipeline's. Raises ValueError."""
    names = ("bits", *SAMPLERS[sampler].parameters)
    return sampling(name=sampler, guidance_scale=None, **{name: config.get(name) for name in names})
