"""The schedulers take the steps that diffusers' own schedulers and the papers' equations take, in the same pipelines.

With one state instead of two, a step on the lattice is that of DDIM, or of Euler for a flow. Differences come from
rounding: of the state to 2^-20, and of the network and of diffusers' scheduler to float32. A wrong sign, noise level or
timestep makes them 1 or more.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from edict.determinism import make_deterministic
from edict.lattice import to_lattice
from edict.schedulers import BDIAScheduler, EDICTScheduler, LatticeScheduler
from tests.edict import oracle
from tests.recipes.trial import Trial, normal, recipes

RECIPES = recipes()
BITS = 20
STEPS = 4
TOLERANCE = 1e-4  # of the standard deviation; the largest one found is 3e-5


@pytest.fixture(autouse=True, scope="module")
def deterministic() -> None:
    make_deterministic()


class OneState(LatticeScheduler):
    """DDIM's generation, and Euler's for a flow, on the lattice."""

    sampler = "ddim_euler"


class SameLevels(FlowMatchEulerDiscreteScheduler):
    """Euler's method at the timesteps and sigmas of another scheduler."""

    levels: Any

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **given: Any) -> None:
        self.levels.set_timesteps(num_inference_steps, **given)
        timesteps, sigmas = self.levels.timesteps.float(), self.levels.sigmas[:-1]
        super().set_timesteps(sigmas=sigmas.numpy(), timesteps=timesteps.numpy(), device=device)


def of_diffusers(scheduler: Any) -> Any:
    """Return the scheduler of diffusers with DDIM's or Euler's steps and the noise levels of another one."""
    config = scheduler.config
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return FlowMatchEulerDiscreteScheduler.from_config(config)
    if config.get("use_flow_sigmas"):
        same = SameLevels()
        same.levels = scheduler
        return same
    if "snr_shift_scale" in config:
        return CogVideoXDDIMScheduler.from_config(config)
    if config["timestep_spacing"] == "linspace":  # diffusers' DDIM steps to a timestep that is not in its list
        return EulerDiscreteScheduler.from_config(config)
    return DDIMScheduler.from_config(config, clip_sample=False)


def scale(scheduler: Any) -> float:
    """Return the factor by which a scheduler's initial latents differ from DDIM's, but for `init_noise_sigma`."""
    if not isinstance(scheduler, EulerDiscreteScheduler):
        return 1.0
    scheduler.set_timesteps(STEPS)
    return float((scheduler.sigmas[0] ** 2 + 1) ** 0.5 / scheduler.init_noise_sigma)


def run(trial: Trial, latents: torch.Tensor) -> torch.Tensor:
    """Return the latents that the pipeline's call makes of others, float64."""
    given = {**trial.call, **trial.guided, "num_inference_steps": STEPS, "output_type": "latent"}
    latents = trial.call_latents(latents.to(trial.dtype or torch.float32, copy=True))
    return trial.pipe(**given, latents=latents, return_dict=False)[0].double()


def generate_by_one_state(trial: Trial, noise: torch.Tensor) -> torch.Tensor:
    """Generate from given noise. An inversion comes first, because it finds the schedule of the pipeline's call."""
    scheduler: Any = OneState.from_config(trial.pipe.scheduler.config, bits=BITS)
    trial.pipe.scheduler = scheduler
    run(trial, scheduler.invert(scheduler.encode(noise)))
    x = to_lattice(noise, scheduler.pair.schedule.scale(0), BITS)
    return run(trial, scheduler.generate(replace(scheduler.pair, x=x, y=x)))


def deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.std())


NOT_COMPARED = {
    "KandinskyV22Pipeline",  # DDIMScheduler does not take its prediction with a learned variance.
    # A small change of its input can change an activation by 1/127 of its range.
    "QwenImagePipeline with int8 weights and activations",
}


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in NOT_COMPARED])
def test_one_state_is_ddim_or_euler(name: str) -> None:
    trial = RECIPES[name](torch.float32)
    trial.pipe.set_progress_bar_config(disable=True)
    noise, own = normal(*trial.shape, seed=1), trial.pipe.scheduler
    trial.pipe.scheduler = of_diffusers(own)
    expected = run(trial, noise * scale(trial.pipe.scheduler))
    trial.pipe.scheduler = own
    found = generate_by_one_state(trial, noise)
    assert deviation(found, expected) < TOLERANCE


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_one_state_is_ddim_for_every_prediction_type(kind: str, spacing: str) -> None:
    trial = RECIPES["StableDiffusionPipeline"](torch.float32)
    trial.pipe.set_progress_bar_config(disable=True)
    offset = 1 if spacing == "leading" else 0
    config = {**trial.pipe.scheduler.config, "timestep_spacing": spacing, "steps_offset": offset}
    trial.pipe.scheduler = DDIMScheduler.from_config(config, prediction_type=kind, clip_sample=False)
    noise = normal(*trial.shape, seed=1)
    expected = run(trial, noise)
    found = generate_by_one_state(trial, noise)
    assert deviation(found, expected) < TOLERANCE


class Probe(DDIMScheduler):
    """One timestep, and a step that returns what was predicted: a pipeline's call becomes its guided network."""

    timestep = 0

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        self.timesteps = torch.tensor([self.timestep])

    def step(self, model_output: torch.Tensor, *args: Any, **given: Any) -> tuple[torch.Tensor]:
        return (model_output,)


@pytest.mark.parametrize(
    ("kind", "given"), [(EDICTScheduler, {"p": 1.0}), (EDICTScheduler, {"p": 0.93}), (BDIAScheduler, {"gamma": 0.96})]
)
def test_two_states_follow_the_equations_in_float64(kind: type[LatticeScheduler], given: dict[str, float]) -> None:
    trial = RECIPES["StableDiffusionPipeline"](torch.float32)
    trial.pipe.set_progress_bar_config(disable=True)
    base = trial.pipe.scheduler
    base.set_timesteps(STEPS)
    timesteps = base.timesteps.tolist()
    alphas = [float(alpha) for alpha in (*base.alphas_cumprod[timesteps], base.final_alpha_cumprod)]
    clean = normal(*trial.shape, seed=1)

    scheduler: Any = kind.from_config(base.config, bits=BITS, **given)
    trial.pipe.scheduler = scheduler
    run(trial, scheduler.invert(scheduler.encode(clean)))
    noise = scheduler.pair

    probe = Probe.from_config(base.config)
    trial.pipe.scheduler = probe

    def predict(latents: torch.Tensor, timestep: int) -> torch.Tensor:
        probe.timestep = timestep
        return run(trial, latents)

    clean = clean.double()
    if kind is EDICTScheduler:
        expected = oracle.invert(clean, clean, timesteps, alphas, predict, given["p"])
    else:

        def back(*states: Any) -> torch.Tensor:
            return oracle.bdia_back(*states, given["gamma"])

        expected = oracle.invert_two_step(clean, timesteps, alphas, predict, back)
    for found, state in zip(noise.to_float(), expected, strict=True):
        assert deviation(found.double(), state) < TOLERANCE
