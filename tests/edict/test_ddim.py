"""The baseline: diffusers' own DDIM forward, and an inversion that is close without being exact."""

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from edict import ddim
from edict.schedule import schedule
from tests.edict.oracle import analytic

CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def latents() -> torch.Tensor:
    return torch.randn(3, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def round_trip_error(steps: int, euler: bool) -> float:
    plan = schedule(CONFIG, steps)
    noise = ddim.invert(latents(), plan, analytic, start=plan.depth, stop=0, euler=euler)
    assert (noise - latents()).abs().max() > 0.1
    return float((ddim.generate(noise, plan, analytic, start=0, stop=plan.depth) - latents()).square().mean().sqrt())


@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize("offset", [0, 1])
def test_generation_is_diffusers_step(steps: int, offset: int) -> None:
    """To 1e-5: diffusers takes the coefficients' roots in float32."""
    config = CONFIG | {"steps_offset": offset}
    scheduler = DDIMScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    expected = latents()
    for timestep in scheduler.timesteps:
        expected = scheduler.step(analytic(expected, int(timestep)), timestep, expected).prev_sample
    plan = schedule(config, steps)
    generated = ddim.generate(latents(), plan, analytic, start=0, stop=steps)
    assert generated.dtype == torch.float64
    assert torch.allclose(generated, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize("offset", [0, 1])
def test_inversion_is_diffusers_step(steps: int, offset: int) -> None:
    """The tolerance is 1e-5, as for generation. diffusers has the convention without `euler`."""
    config = CONFIG | {"steps_offset": offset}
    scheduler = DDIMInverseScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    expected = latents()
    for timestep in scheduler.timesteps:
        expected = scheduler.step(analytic(expected, int(timestep)), timestep, expected).prev_sample
    inverted = ddim.invert(latents(), schedule(config, steps), analytic, start=steps, stop=0)
    assert torch.allclose(inverted, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("euler", [False, True])
def test_the_round_trip_is_close_but_not_exact(euler: bool) -> None:
    """Its error is of the first order in the step: half as large with twice the steps."""
    coarse, fine = round_trip_error(50, euler), round_trip_error(100, euler)
    assert 1e-4 < coarse < 0.1
    assert 0.4 < fine / coarse < 0.6


@pytest.mark.parametrize("euler", [False, True])
def test_a_run_can_stop_anywhere_and_go_on(euler: bool) -> None:
    plan = schedule(CONFIG, 9)
    middle = ddim.invert(latents(), plan, analytic, start=9, stop=4, euler=euler)
    assert torch.equal(
        ddim.invert(middle, plan, analytic, start=4, stop=0, euler=euler),
        ddim.invert(latents(), plan, analytic, start=9, stop=0, euler=euler),
    )
