"""The EDICT sampler with a prediction in closed form: exact, and as in the equations of the paper."""

import pytest
import torch

from edict.integration import Predict
from edict.lattice import MAX_STATE, from_lattice, to_lattice
from edict.schedule import Schedule, noise_schedule
from schemas.sampling import count_executed_steps
from tests.edict import oracle
from tests.edict.integrate import CONFIG, Run, clean, equal, latents
from tests.edict.oracle import analytic


def edict(plan: Schedule, p: float = 0.93, bits: int = 12, predict: Predict = analytic) -> Run:
    return Run("edict", plan, bits, predict, p=p)


@pytest.mark.parametrize("p", [0.9, 0.93, 0.97, 1])
@pytest.mark.parametrize(
    ("steps", "strength"),
    [(n, s) for n in (1, 2, 7, 25, 50, 51, 200) for s in (0.3, 0.8, 1.0) if count_executed_steps(n, s)],
)
def test_generation_returns_the_integers_that_were_inverted(steps: int, strength: float, p: float) -> None:
    """All integers are equal, or there is a fault: 160 steps at p = 0.9 expand x - y by 2^48."""
    run = edict(noise_schedule(CONFIG, steps, strength), p)
    start = clean(run.plan)
    noise = run.invert(start)
    within = run.monitor.largest < MAX_STATE
    assert within.all() == (not (p == 0.9 and run.plan.num_steps >= 160))
    assert not torch.equal(noise[0], start[0])
    back = run.generate(noise)
    assert equal([state[within] for state in back], [state[within] for state in start])
    if within.all():
        assert (run.monitor.largest < MAX_STATE).all(), "generation has larger states than inversion"


@pytest.mark.parametrize("steps", [1, 6, 7])
def test_a_pair_with_different_states_is_exact(steps: int) -> None:
    run = edict(noise_schedule(CONFIG, steps))
    start = (torch.randint(-9999, 9999, (3, 4, 4, 4)), torch.randint(-9999, 9999, (3, 4, 4, 4)))
    assert equal(run.generate(run.invert(start)), start)


@pytest.mark.parametrize("bits", [4, 8, 20])
def test_exactness_does_not_depend_on_the_bits(bits: int) -> None:
    run = edict(noise_schedule(CONFIG, 25), bits=bits)
    start = clean(run.plan, bits)
    assert equal(run.generate(run.invert(start)), start)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_exactness_does_not_depend_on_the_predictions_dtype(dtype: torch.dtype) -> None:
    run = edict(noise_schedule(CONFIG, 25), predict=lambda x, t: analytic(x.to(dtype), t))
    start = clean(run.plan)
    assert run.predict(latents(), 1).dtype == dtype
    assert equal(run.generate(run.invert(start)), start)


@pytest.mark.parametrize("steps", [1, 7, 25, 51])
def test_the_order_within_a_step_follows_the_number_of_the_step(steps: int) -> None:
    """A sampler that counts from the clean end would have the other order in every step of an odd schedule.

    So `shifted`, the same steps each numbered one higher, is what a sampler does that uses its own count. It undoes
    itself, but not `run`.
    """
    run = edict(noise_schedule(CONFIG, steps))
    plan = run.plan
    shifted = edict(Schedule((999, *plan.timesteps), (0.001, *plan.alphas_cumprod)))
    start = clean(plan)
    miscounted = shifted.invert(start, steps + 1, 1)
    assert equal(shifted.generate(miscounted, 1, steps + 1), start)
    assert not equal(run.generate(miscounted), start)
    assert equal(run.generate(run.invert(start)), start)


def largest_error(plan: Schedule, p: float, inverting: bool) -> tuple[float, float]:
    """How far rounding can take x and y from the real-valued run, in units of the lattice.

    Half a unit at the start and at every operation. A half-step adds what the prediction makes of the other state's
    error (Lipschitz constant 1 of `analytic`, times the step's gain and the state's scale); mixing takes the weighted
    mean of the errors; unmixing, at worst, their weighted sum.
    """
    x = y = 0.5
    q = 1 - p
    for i in reversed(range(plan.num_steps)) if inverting else range(plan.num_steps):
        gain = abs(plan.sigma(i + 1) - plan.sigma(i))
        of_first, of_second = gain * plan.alpha(i + 1) ** 0.5, gain * plan.alpha(i) ** 0.5
        if inverting:
            y = (y + q * x) / p + 0.5
            x = (x + q * y) / p + 0.5
        first, second = (x, y) if i % 2 == 0 else (y, x)
        if inverting:
            second += of_first * first + 0.5
            first += of_second * second + 0.5
        else:
            first += of_second * second + 0.5
            second += of_first * first + 0.5
        x, y = (first, second) if i % 2 == 0 else (second, first)
        if not inverting:
            x = p * x + q * y + 0.5
            y = p * y + q * x + 0.5
    return x, y


@pytest.mark.parametrize("inverting", [True, False])
@pytest.mark.parametrize(("steps", "strength"), [(1, 1.0), (6, 1.0), (7, 1.0), (25, 0.3), (50, 0.2)])
def test_the_lattice_follows_the_papers_equations(steps: int, strength: float, inverting: bool) -> None:
    """The bound is the effect of rounding, which halves with every bit, and at least 1e-9 for float64."""
    plan = noise_schedule(CONFIG, steps, strength)
    errors = {}
    for bits in (8, 12, 16, 20):
        run = edict(plan, bits=bits)
        here, there = (plan.num_steps, 0) if inverting else (0, plan.num_steps)
        start = latents()
        integrate, reference = (run.invert, oracle.invert) if inverting else (run.generate, oracle.generate)
        states = integrate(tuple(to_lattice(start, plan.scale(here), bits) for _ in "xy"))
        expected = reference(start, start, plan.timesteps, plan.alphas_cumprod, analytic, 0.93)
        unit = plan.alpha(there) ** 0.5 / 2**bits
        errors[bits] = 0.0
        for state, float_state, bound in zip(states, expected, largest_error(plan, 0.93, inverting), strict=True):
            error = (from_lattice(state, plan.scale(there), bits) - float_state).abs().max().item()
            assert error <= bound * unit + 1e-9
            errors[bits] = max(errors[bits], error)
        assert (
            max(largest_error(plan, 0.93, inverting)) * unit < 1e-3 or bits < 20
        )  # Otherwise the bound would be meaningless.
    assert errors[20] < errors[8] / 500


def test_the_oracle_undoes_itself_up_to_rounding() -> None:
    plan = noise_schedule(CONFIG, 25)
    start = latents()
    noise = oracle.invert(start, start, plan.timesteps, plan.alphas_cumprod, analytic, 0.93)
    for state in oracle.generate(*noise, plan.timesteps, plan.alphas_cumprod, analytic, 0.93):
        assert 0 < (state - start).abs().max() < 1e-10


@pytest.mark.parametrize("steps", [6, 7])
def test_a_step_makes_two_network_calls_at_its_timestep(steps: int) -> None:
    evaluated = []

    def predict(x: torch.Tensor, timestep: int) -> torch.Tensor:
        evaluated.append((timestep, x.dtype, x.shape))
        return analytic(x, timestep)

    run = edict(noise_schedule(CONFIG, steps), predict=predict)
    noise = run.invert(clean(run.plan))
    twice = [(t, torch.float64, (3, 4, 4, 4)) for t in run.plan.timesteps for _ in "xy"]
    assert evaluated == twice[::-1]
    evaluated.clear()
    run.generate(noise)
    assert evaluated == twice


def test_a_step_between_equal_noise_levels_makes_no_network_call() -> None:
    """Without offset, both ends of the last step have the alpha of timestep 0."""
    evaluated = []

    def predict(x: torch.Tensor, timestep: int) -> torch.Tensor:
        evaluated.append(timestep)
        return analytic(x, timestep)

    run = edict(noise_schedule(CONFIG | {"steps_offset": 0}, 5), predict=predict)
    start = clean(run.plan)
    assert run.plan.timesteps == (800, 600, 400, 200, 0)
    noise = run.invert(start)
    assert evaluated == [200, 200, 400, 400, 600, 600, 800, 800]
    assert equal(run.generate(noise), start)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("direction", ["invert", "generate"])
def test_a_nan_prediction_is_a_fault_of_its_sample_only(bad: float, direction: str) -> None:
    def predict(x: torch.Tensor, timestep: int) -> torch.Tensor:
        eps = analytic(x, timestep)
        if timestep == sound.plan.timesteps[2]:
            eps[1, 3, 2, 1] = bad
        return eps

    sound = edict(noise_schedule(CONFIG, 6))
    broken = edict(sound.plan, predict=predict)
    whole, part = getattr(sound, direction)(clean(sound.plan)), getattr(broken, direction)(clean(sound.plan))
    assert sound.monitor.finite.tolist() == [True, True, True]
    assert broken.monitor.finite.tolist() == [True, False, True]
    assert equal([state[::2] for state in whole], [state[::2] for state in part])


@pytest.mark.parametrize("huge", [1e12, 1e30, -1e30, 1e300])
@pytest.mark.parametrize("p", [0.93, 1])
@pytest.mark.parametrize("direction", ["invert", "generate"])
def test_a_huge_prediction_is_an_overflow_of_its_sample_only(huge: float, p: float, direction: str) -> None:
    """A finite prediction beyond int64 would wrap on conversion, and disappear in mixing."""

    def predict(x: torch.Tensor, timestep: int) -> torch.Tensor:
        eps = analytic(x, timestep)
        eps[1, 3, 2, 1] = huge
        return eps

    sound = edict(noise_schedule(CONFIG, 3), p)
    broken = edict(sound.plan, p, predict=predict)
    start = clean(sound.plan)
    for state in start:
        state[1, 3, 2, 1] = 0  # from where the smallest int64 would be reached, which is its own absolute value
    whole, part = getattr(sound, direction)(start), getattr(broken, direction)(start)
    assert broken.monitor.finite.all()
    assert (broken.monitor.largest >= MAX_STATE).tolist() == [False, True, False]
    assert equal([state[::2] for state in whole], [state[::2] for state in part])


def test_states_that_overflow_int64_are_faults() -> None:
    """p = 0.5 expands x - y by 4 per step, 2^100 in total. The overflow is detected before int64 wraps."""
    run = edict(noise_schedule(CONFIG, 50), 0.5)
    run.invert(clean(run.plan))
    assert (run.monitor.largest >= MAX_STATE).all()
