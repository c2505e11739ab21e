"""The executed steps are those of the checkpoint's scheduler config."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edict.schedule import Schedule, final_alpha, flow_schedule, noise_schedule
from schemas.sampling import Sampling, count_executed_steps
from schemas.specs import SamplerSpec

# scheduler/scheduler_config.json of the Stable Diffusion 1.x repositories on the hub
HUB = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def plan(steps: int = 50, strength: float = 1.0, **changes: object) -> Schedule:
    return noise_schedule(HUB | changes, steps, strength)


def hub_alphas() -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


@pytest.mark.parametrize(
    ("changes", "steps", "timesteps"),
    [
        ({}, 50, range(981, 0, -20)),
        ({"steps_offset": 0}, 50, range(980, -1, -20)),
        ({}, 7, range(853, 0, -142)),
        ({}, 1, [1]),
        ({"timestep_spacing": "trailing"}, 10, range(999, 0, -100)),
        ({"timestep_spacing": "linspace", "steps_offset": 0}, 10, range(999, -1, -111)),
    ],
)
def test_timesteps_follow_offset_and_spacing(changes: dict[str, object], steps: int, timesteps: range) -> None:
    assert plan(steps, **changes).timesteps == tuple(timesteps)


def test_alphas_equal_those_of_the_hub() -> None:
    """The tolerance is 1e-5, because the alphas of the checkpoint are float32 products."""
    alphas = hub_alphas()
    expected = [*(float(alphas[t]) for t in range(981, 0, -20)), float(alphas[0])]
    assert plan().alphas_cumprod == pytest.approx(expected, rel=1e-5)
    assert len(plan().alphas_cumprod) == plan().num_steps + 1 == 51


def test_the_clean_end_is_the_configs_final_alpha() -> None:
    stable, one = plan(), plan(set_alpha_to_one=True)
    assert stable.alpha(50) == final_alpha(HUB) == pytest.approx(1 - 0.00085, rel=1e-6)
    assert one.alpha(50) == final_alpha(HUB | {"set_alpha_to_one": True}) == 1.0
    assert one.sigma(50) == 0.0 < stable.sigma(50)
    assert one.alphas_cumprod[:-1] == stable.alphas_cumprod[:-1]


def test_without_offset_the_last_step_is_a_no_op() -> None:
    """Both ends of the step have the same alpha to the bit, which the sampler relies on."""
    without = plan(steps_offset=0)
    assert without.timesteps[-1] == 0
    assert without.sigma(50) == without.sigma(49)
    assert plan().sigma(50) < plan().sigma(49)


def test_sigma_is_the_noise_to_signal_ratio() -> None:
    half = Schedule((1,), (0.5, 0.8))
    assert half.sigma(0) == pytest.approx(1.0, rel=1e-15)
    assert half.sigma(1) == pytest.approx(0.5, rel=1e-15)


@pytest.mark.parametrize(
    ("steps", "strength", "depth"),
    [
        (50, 1.0, 50),
        (50, 0.8, 40),
        (50, 0.58, 29),
        (50, 0.29, 14),
        (25, 0.3, 7),
        (7, 0.8, 5),
        (2, 0.5, 1),
        (1000, 0.001, 1),
    ],
)
def test_strength_keeps_the_last_steps(steps: int, strength: float, depth: int) -> None:
    assert count_executed_steps(steps, strength) == depth
    whole, part = plan(steps, steps_offset=0), plan(steps, strength, steps_offset=0)
    assert part.timesteps == whole.timesteps[-depth:]
    assert part.alphas_cumprod == whole.alphas_cumprod[-depth - 1 :]


@pytest.mark.parametrize(
    ("steps", "strength", "changes", "message"),
    [
        (3, 0.3, {}, "execute no step"),
        (50, 0.0, {}, "execute no step"),
        (0, 1.0, {}, "execute no step"),
        (1001, 1.0, {}, "trained with 1000"),
        (1000, 1.0, {}, "Use fewer"),  # timestep 1000 of 0..999, by the offset
        (61, 1.0, {"timestep_spacing": "trailing"}, "Use fewer"),  # a 62nd timestep, -1, by rounding
    ],
)
def test_steps_without_a_schedule_are_an_error(
    steps: int, strength: float, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan(steps, strength, **changes)


@settings(max_examples=60)
@given(
    steps=st.integers(1, 300),
    strength=st.floats(0.01, 1),
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
    offset=st.integers(0, 1),
    one=st.booleans(),
)
def test_noise_decreases_at_every_step(steps: int, strength: float, spacing: str, offset: int, one: bool) -> None:
    changes = {"timestep_spacing": spacing, "steps_offset": offset, "set_alpha_to_one": one}
    try:
        made = plan(steps, strength, **changes)
    except ValueError:
        reject()  # no step executed, or a spacing that does not fit: tested above
    assert made.num_steps == count_executed_steps(steps, strength) == len(made.alphas_cumprod) - 1
    assert all(late < early for early, late in pairwise(made.timesteps))
    alphas = made.alphas_cumprod
    assert all(early < late for early, late in pairwise(alphas[:-1]))
    assert alphas[-2] <= alphas[-1] <= 1
    assert all(math.isfinite(made.sigma(i)) for i in range(made.num_steps + 1))


@settings(max_examples=300)
@given(
    steps=st.integers(1, 1000), strength=st.floats(0, 1, exclude_min=True) | st.integers(1, 100).map(lambda i: i / 100)
)
def test_the_spec_counts_executed_steps_as_the_schedule_does(steps: int, strength: float) -> None:
    if count_executed_steps(steps, strength) < 1:
        with pytest.raises(ValidationError, match="executes no step"):
            SamplerSpec(steps=steps, strength=strength)
    else:
        assert SamplerSpec(steps=steps, strength=strength).executed_steps == count_executed_steps(steps, strength)


def test_a_given_offset_replaces_that_of_the_config() -> None:
    config = {"steps_offset": 1, "timestep_spacing": "leading"}
    assert noise_schedule(config, 10, 1.0, 0) == noise_schedule(config | {"steps_offset": 0}, 10)
    assert noise_schedule(config, 10, 1.0, 0).timesteps[-1] == 0 != noise_schedule(config, 10).timesteps[-1]
    with pytest.raises(ValueError, match="only valid for leading spacing, and the checkpoint's is trailing"):
        noise_schedule(config | {"timestep_spacing": "trailing"}, 10, 1.0, 0)
    with pytest.raises(ValueError, match="the checkpoint is a flow"):
        flow_schedule({}, Sampling(steps=10, steps_offset=0), tokens=16)


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("offset", [0, 1])
def test_timesteps_outside_an_interval_of_noise_levels(offset: int, one: bool) -> None:
    """The clean end has timestep 0, unless the last step has it: then that step's noise level counts."""
    plan = noise_schedule({"timestep_spacing": "leading", "steps_offset": offset, "set_alpha_to_one": one}, 10)
    assert [plan.timestep(k) for k in range(11)] == [*plan.timesteps, 0]
    assert plan.timesteps_outside(None) == frozenset()
    low, high = plan.sigma(8), plan.sigma(2)
    assert plan.timesteps_outside([low, high]) == {*plan.timesteps[:2], *plan.timesteps[8:], 0}
    assert plan.timesteps_outside([0, 1000]) == ({0} if one and offset else set())
