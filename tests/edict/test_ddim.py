"""The baseline: DDIM equals that of diffusers, and its round trip is not exact."""

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from edict.integration import solve_floats
from edict.schedule import noise_schedule
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


def round_trip_error(steps: int, name: str) -> float:
    plan = noise_schedule(CONFIG, steps)
    noise = solve_floats(latents(), name, plan, analytic, plan.num_steps, 0)
    assert (noise - latents()).abs().max() > 0.1
    return float((solve_floats(noise, name, plan, analytic, 0, plan.num_steps) - latents()).square().mean().sqrt())


@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize("offset", [0, 1])
def test_ddim_generation_equals_diffusers(steps: int, offset: int) -> None:
    """The tolerance is 1e-5, because diffusers computes the roots of the coefficients in float32."""
    config = CONFIG | {"steps_offset": offset}
    scheduler = DDIMScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    expected = latents()
    for timestep in scheduler.timesteps:
        expected = scheduler.step(analytic(expected, int(timestep)), timestep, expected).prev_sample
    plan = noise_schedule(config, steps)
    generated = solve_floats(latents(), "ddim", plan, analytic, 0, steps)
    assert generated.dtype == torch.float64
    assert torch.allclose(generated, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize("offset", [0, 1])
def test_ddim_inversion_equals_diffusers(steps: int, offset: int) -> None:
    """The tolerance is 1e-5, as for generation. diffusers has the convention of `ddim`."""
    config = CONFIG | {"steps_offset": offset}
    scheduler = DDIMInverseScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    expected = latents()
    for timestep in scheduler.timesteps:
        expected = scheduler.step(analytic(expected, int(timestep)), timestep, expected).prev_sample
    inverted = solve_floats(latents(), "ddim", noise_schedule(config, steps), analytic, steps, 0)
    assert torch.allclose(inverted, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["ddim", "ddim_euler"])
def test_a_ddim_round_trip_has_a_first_order_error(name: str) -> None:
    """Twice the steps halve the error."""
    coarse, fine = round_trip_error(50, name), round_trip_error(100, name)
    assert 1e-4 < coarse < 0.1
    assert 0.4 < fine / coarse < 0.6


@pytest.mark.parametrize("name", ["ddim", "ddim_euler"])
def test_a_run_can_stop_and_continue_at_any_position(name: str) -> None:
    plan = noise_schedule(CONFIG, 9)
    middle = solve_floats(latents(), name, plan, analytic, 9, 4)
    continued, whole = (
        solve_floats(middle, name, plan, analytic, 4, 0),
        solve_floats(latents(), name, plan, analytic, 9, 0),
    )
    assert torch.allclose(continued, whole, rtol=1e-12, atol=1e-12)
