"""Every sampler: exact, as in its paper, and with the network calls that it announces."""

from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import get_args

import pytest
import torch
from PIL import Image

from edict import EDICT, Control, Pair
from edict.integration import Integration, solve, solve_floats
from edict.lattice import MAX_STATE, MIN_WEIGHT, from_lattice, to_lattice
from edict.samplers import SAMPLERS, sampling, two_step, with_defaults
from edict.schedule import Schedule, noise_schedule
from schemas.sampling import OWNERS, Sampling, count_executed_steps
from schemas.specs import SamplerSpec
from tests.edict import oracle
from tests.edict.integrate import CONFIG, Run, clean, equal, latents
from tests.edict.oracle import analytic

EXACT = [name for name, sampler in SAMPLERS.items() if sampler.exact]
TWO_STEP = ["bdia", "obelm"]
DDIM = ["ddim", "ddim_euler"]
GEOMETRIC = Schedule(  # Sigma falls by a third per step, so O-BELM's weight is always 4/9.
    (900, 750, 600, 450, 300, 150, 1), tuple(1 / (1 + (8 * (2 / 3) ** k) ** 2) for k in range(8))
)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("bits", [8, 12, 20])
@pytest.mark.parametrize(
    ("steps", "strength"),
    [(n, s) for n in (1, 2, 7, 25, 50, 200) for s in (0.3, 0.8, 1.0) if count_executed_steps(n, s)],
)
def test_generation_returns_the_integers_that_were_inverted(steps: int, strength: float, bits: int, name: str) -> None:
    run = Run(name, noise_schedule(CONFIG, steps, strength), bits)
    start = clean(run.plan, bits)
    noise = run.invert(start)
    assert (run.monitor.largest < MAX_STATE).all() and run.monitor.finite.all()
    assert not equal(noise, start)
    assert equal(run.generate(noise), start)


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.96, 1.0])
def test_bdia_is_exact_at_every_gamma(gamma: float) -> None:
    run = Run("bdia", noise_schedule(CONFIG, 25), gamma=gamma)
    start = clean(run.plan)
    noise = run.invert(start)
    assert (run.monitor.largest < MAX_STATE).all()
    assert equal(run.generate(noise), start)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("offset", [0, 1])
def test_a_run_can_stop_and_continue_at_any_position(name: str, offset: int) -> None:
    """Generation to position k equals inversion to k, where edits branch off. With offset 0, the last step is idle."""
    run = Run(name, noise_schedule(CONFIG | {"steps_offset": offset}, 9))
    at = {9: clean(run.plan)}
    for position in range(8, -1, -1):
        at[position] = run.invert(at[position + 1], position + 1, position)
    assert equal(at[0], run.invert(at[9]))
    for position in range(10):
        assert equal(run.generate(at[0], 0, position), at[position])
        assert equal(run.generate(at[position], position), at[9])
        assert equal(run.invert(at[9], 9, position), at[position])
        if SAMPLERS[name].y_lead and position < 9:
            assert torch.equal(at[position][1], at[position + 1][0]), "y is one position ahead"


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("idle", [0, 1])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_network_calls_are_those_of_evaluated_steps(name: str, steps: int, idle: int) -> None:
    """`idle` is the number of steps at the end that change nothing."""
    run = Run(name, noise_schedule(CONFIG | {"steps_offset": 1 - idle}, steps))
    assert run.plan.num_evaluated_steps == steps - idle

    def expected_calls(start: int, stop: int) -> list[float]:
        return SAMPLERS[name].evaluated_timesteps(run.plan, start, stop)

    for stop in range(steps, -1, -1):
        states = run.invert(clean(run.plan), steps, stop)
        assert run.calls == expected_calls(steps, stop)
        assert bool(expected_calls(stop, steps)) == (steps - stop > idle + SAMPLERS[name].y_lead), (
            "fewer last steps change nothing"
        )
        for end in range(stop, steps + 1):
            run.generate(states, stop, end)
            assert run.calls == expected_calls(stop, end)
    n = steps - idle
    whole = {"edict": (2 * n, 2 * n), "ddim": (n, n), "ddim_euler": (n, n)}.get(name, (n, max(n - 1, 0)))
    assert (len(expected_calls(steps, 0)), len(expected_calls(0, steps))) == whole


@pytest.mark.parametrize("name", TWO_STEP)
def test_a_two_step_method_evaluates_at_the_timestep_of_the_state(name: str) -> None:
    run = Run(name, noise_schedule(CONFIG, 5))
    noise = run.invert(clean(run.plan))
    assert run.calls == [run.plan.timesteps[i] for i in (4, 4, 3, 2, 1)]
    assert run.generate(noise) and run.calls == [run.plan.timesteps[i] for i in (1, 2, 3, 4)]


def test_ddim_euler_evaluates_at_the_timestep_of_the_state() -> None:
    run = Run("ddim_euler", noise_schedule(CONFIG, 5))
    noise = run.invert(clean(run.plan))
    assert run.calls == [0, *run.plan.timesteps[:0:-1]]
    assert run.generate(noise) and run.calls == list(run.plan.timesteps)
    run.invert(clean(run.plan), 3, 1)
    assert run.calls == [run.plan.timesteps[i] for i in (3, 2)]


@pytest.mark.parametrize("name", TWO_STEP)
def test_a_last_step_between_equal_noise_levels_makes_no_network_call(name: str) -> None:
    run = Run(name, noise_schedule(CONFIG | {"steps_offset": 0}, 5))
    assert run.plan.timesteps == (800, 600, 400, 200, 0)
    noise = run.invert(clean(run.plan))
    assert run.calls == [200, 200, 400, 600]
    assert equal(run.generate(noise), clean(run.plan))
    assert run.calls == [600, 400, 200]


def test_edict_reproduces_the_integers_of_the_first_stores() -> None:
    """The prediction uses no sine or root, which could differ between libraries."""

    def linear(x: torch.Tensor, timestep: int) -> torch.Tensor:
        return (x + x.roll(1, -1) / 2) * (1 - timestep / 4000) / 2

    x = torch.randint(-8000, 8000, (2, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    for steps, strength, p, digest in (
        (7, 1.0, "0.93", "bc0254f96c09bc3e5b425dbe757e1ef4f00af20e7dc0ea2509cb2b07c3d93e2d"),
        (25, 0.8, "0.97", "604a85b1aa225a088b3ca989360f2ff9af91045887aff07d674b6eb125f8aa3b"),
    ):
        plan = noise_schedule(CONFIG, steps, strength)
        start = Pair(x, x, plan, plan.num_steps, Sampling(p=float(p), bits=12), 2)
        noise = solve(Integration(start, 0), linear)
        assert sha256(torch.stack([noise.x, noise.y]).numpy().astype("<i8").tobytes()).hexdigest() == digest


PAPERS: list[tuple[str, Schedule, dict[str, float], oracle.Next, oracle.Next]] = [
    *(
        ("bdia", plan, {"gamma": g}, partial(oracle.bdia, gamma=g), partial(oracle.bdia_back, gamma=g))
        for plan in (
            noise_schedule(CONFIG, 1),
            noise_schedule(CONFIG, 6),
            noise_schedule(CONFIG, 25),
            noise_schedule(CONFIG, 50, 0.3),
        )
        for g in (0.9, 0.96, 1.0)
    ),
    (
        "bdia",
        noise_schedule(CONFIG, 7),
        {"gamma": 0.5},
        partial(oracle.bdia, gamma=0.5),
        partial(oracle.bdia_back, gamma=0.5),
    ),
    ("obelm", GEOMETRIC, {}, oracle.obelm, oracle.obelm_back),
    ("obelm", noise_schedule(CONFIG | {"set_alpha_to_one": True}, 3), {}, oracle.obelm, oracle.obelm_back),
]


@pytest.mark.parametrize(("name", "plan", "given", "step", "step_back"), PAPERS)
def test_the_lattice_follows_the_papers_equations(
    name: str, plan: Schedule, given: dict[str, float], step: oracle.Next, step_back: oracle.Next
) -> None:
    """Inversion expands rounding, half a unit per step, by 1 / a_k. It halves with every bit."""
    errors = {}
    for bits in (10, 20):
        run, start = Run(name, plan, bits, **given), latents()
        x, y = run.invert(clean(plan, bits))
        of_x, of_y = plan.scale(0), plan.scale(1)
        expected = oracle.invert_two_step(start, plan.timesteps, plan.alphas_cumprod, analytic, step_back)
        off = [from_lattice(x, of_x, bits) - expected[0], from_lattice(y, of_y, bits) - expected[1]]
        down = run.generate((to_lattice(start, of_x, bits), to_lattice(start, of_y, bits)))
        expected_down = oracle.generate_two_step(start, start, plan.timesteps, plan.alphas_cumprod, analytic, step)
        off.append(from_lattice(down[0], plan.scale(plan.num_steps), bits) - expected_down)
        errors[bits] = max(float(error.abs().max()) for error in off)
        assert plan.num_steps == 1 or torch.equal(*down)
    assert errors[20] < 2e-3
    assert errors[20] < errors[10] / 100


@pytest.mark.parametrize("name", TWO_STEP)
@pytest.mark.parametrize("steps", [2, 7, 50])
def test_every_step_is_consistent(name: str, steps: int) -> None:
    """A constant prediction is integrated without error with every weight, also a limited one."""
    always = torch.randn(3, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plan, bits = noise_schedule(CONFIG, steps), 30  # The last step is so small that rounding grows by 1e5.
    run = Run(name, plan, bits, predict=lambda x, _: always)
    x, y = run.invert(clean(plan, bits))
    for state, position in ((x, 0), (y, 1)):
        straight = clean(plan, bits)[0] / 2**bits + (plan.sigma(position) - plan.sigma(steps)) * always
        assert (state / 2**bits - straight).abs().max() < 1e-3


@pytest.mark.parametrize(("steps", "limited"), [(7, 1), (10, 1), (25, 3), (50, 6), (100, 12), (200, 24)])
def test_obelm_weights_exceed_one_only_near_the_clean_end(steps: int, limited: int) -> None:
    """In one step of eight of Stable Diffusion's schedule, a_k is limited to 1."""
    plan = noise_schedule(CONFIG, steps)
    wanted = [two_step.obelm(plan, k) for k in range(1, steps)]
    above = [k for k, a in enumerate(wanted, 1) if a > 1]
    assert above == list(range(steps - 1 - limited, steps - 1))
    for k, a in enumerate(wanted, 1):
        taken, gain = two_step._coefficients(plan, k, two_step.obelm, {})
        assert MIN_WEIGHT <= taken <= 1
        assert abs(float(taken) - min(a, 1)) <= float(MIN_WEIGHT)
        h, before = plan.sigma(k) - plan.sigma(k + 1), plan.sigma(k - 1) - plan.sigma(k)
        assert gain == pytest.approx(-(h + float(taken) * before), rel=1e-12)


@pytest.mark.parametrize(("name", "lowest", "highest"), [("ddim", 0.4, 0.6), ("obelm", 0.2, 0.3)])
def test_each_method_has_its_order_of_accuracy(name: str, lowest: float, highest: float) -> None:
    """Half the step halves the error of DDIM and quarters that of O-BELM, for even steps and an exact start."""

    def error(steps: int) -> float:
        sigmas = [2 - 1.9 * k / steps for k in range(steps + 1)]
        plan = Schedule(tuple(range(steps, 0, -1)), tuple(1 / (1 + s**2) for s in sigmas))

        def predict(x: torch.Tensor, timestep: int) -> torch.Tensor:  # du/dsigma = u, solved by exp(sigma)
            position = steps - timestep
            return x / plan.scale(position)

        bits = 24
        begin = [
            torch.full((3, 4, 4, 4), torch.tensor(s, dtype=torch.float64).exp().item()).double() for s in sigmas[:2]
        ]
        states = tuple(torch.round(u * 2**bits).long() for u in begin)
        u = Run(name, plan, bits, predict).generate(states)[0] / 2**bits
        return float((u - torch.tensor(sigmas[-1], dtype=torch.float64).exp()).abs().max())

    assert lowest < error(160) / error(80) < highest


@pytest.mark.parametrize("name", DDIM)
@pytest.mark.parametrize(("steps", "strength"), [(1, 1.0), (7, 1.0), (25, 0.8)])
def test_ddim_on_the_lattice_equals_ddim_in_floats_up_to_rounding(steps: int, strength: float, name: str) -> None:
    plan, bits = noise_schedule(CONFIG, steps, strength), 20
    run = Run(name, plan, bits)
    x, y = run.invert(clean(plan, bits))
    assert torch.equal(x, y)
    expected = solve_floats(latents(), name, plan, analytic, plan.num_steps, 0)
    assert (from_lattice(x, plan.scale(0), bits) - expected).abs().max() < 1e-4
    from_paper = oracle.invert_ddim(
        latents(), plan.timesteps, plan.alphas_cumprod, analytic, euler=name == "ddim_euler"
    )
    assert torch.allclose(expected, from_paper, rtol=1e-12, atol=1e-12)
    again = run.generate((x, y))
    expected = solve_floats(expected, name, plan, analytic, 0, plan.num_steps)
    assert (from_lattice(again[0], plan.scale(plan.num_steps), bits) - expected).abs().max() < 1e-4
    assert not SAMPLERS[name].exact and not equal(again, clean(plan, bits))


@pytest.mark.parametrize("name", DDIM)
def test_ddim_inversion_is_of_the_first_order(name: str) -> None:
    """The distance to the solution halves with the step if the prediction depends on the timestep."""
    sigmas = (0.1, 2.0)

    def error(steps: int) -> float:
        levels = [sigmas[1] + (sigmas[0] - sigmas[1]) * k / steps for k in range(steps + 1)]
        plan = Schedule(tuple(levels[:-1]), tuple(1 / (1 + s**2) for s in levels))
        run = Run(name, plan, 24, predict=lambda x, s: torch.full_like(x, s))  # du/dsigma = sigma
        x, _ = run.invert(clean(plan, 24))
        exact = clean(plan, 24)[0] / 2**24 + (sigmas[1] ** 2 - sigmas[0] ** 2) / 2
        return float((x / 2**24 - exact).abs().max())

    assert error(160) / error(80) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("bad", [float("nan"), 1e30, -1e300])
@pytest.mark.parametrize("direction", ["invert", "generate"])
def test_a_nan_prediction_is_a_fault_of_its_sample_only(name: str, bad: float, direction: str) -> None:
    def predict(x: torch.Tensor, timestep: int) -> torch.Tensor:
        eps = analytic(x, timestep)
        eps[1, 3, 2, 1] = bad
        return eps

    sound = Run(name, noise_schedule(CONFIG, 4))
    broken = Run(name, sound.plan, predict=predict)
    whole, part = getattr(sound, direction)(clean(sound.plan)), getattr(broken, direction)(clean(sound.plan))
    faulty = ~broken.monitor.finite | (broken.monitor.largest >= MAX_STATE)
    assert faulty.tolist() == [False, True, False]
    assert equal((whole[0][::2], whole[1][::2]), (part[0][::2], part[1][::2]))


def test_states_that_overflow_int64_are_faults() -> None:
    """gamma = 0.5 expands x - y by 2 per step."""
    run = Run("bdia", noise_schedule(CONFIG, 100), gamma=0.5)
    run.invert(clean(run.plan))
    assert (run.monitor.largest >= MAX_STATE).all()


def test_a_spec_names_the_samplers_and_their_parameters() -> None:
    assert list(get_args(SamplerSpec.model_fields["name"].annotation)) == list(SAMPLERS)
    assert {name: set(sampler.parameters) for name, sampler in SAMPLERS.items()} == {
        name: {parameter for parameter, owner in OWNERS.items() if owner == name} for name in SAMPLERS
    }
    for name, sampler in SAMPLERS.items():
        given = dict.fromkeys(sampler.parameters, 0.75)
        assert SamplerSpec.model_validate({"name": name, **given}).parameters == given


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("bdia", {"p": 0.9}, "p is only valid for the sampler edict, and the sampler is bdia"),
        ("obelm", {"gamma": 0.9}, "gamma is only valid for the sampler bdia"),
        ("bdia", {"gamma": 0.49}, r"gamma is 0\.49: expected at least 0\.5"),
        ("dpm", {}, "sampler is 'dpm': expected 'edict', 'bdia', 'obelm', 'ddim' or 'ddim_euler'"),
    ],
)
def test_a_parameter_of_another_sampler_is_an_error(name: str, given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampling(name=name, **given)


def test_the_default_gamma_limits_expansion_to_that_of_50_steps() -> None:
    bdia = sampling(name="bdia")
    assert with_defaults(bdia, 50).gamma == with_defaults(bdia, 1).gamma == 0.96
    assert with_defaults(bdia, 200).gamma == round(0.96**0.25, 4)


@pytest.fixture(scope="module")
def rough() -> EDICT:
    return EDICT.from_pretrained(dtype=torch.bfloat16)


@pytest.mark.parametrize("name", TWO_STEP)
@pytest.mark.parametrize(
    ("steps", "strength", "guidance_scale", "dtype"),
    [
        (1, 1.0, 7.0, torch.float32),
        (2, 1.0, 1.0, torch.float32),
        (7, 1.0, 7.0, torch.float32),
        (25, 0.3, 1.0, torch.float32),
        (2, 1.0, 7.0, torch.bfloat16),
        (7, 0.8, 1.0, torch.bfloat16),
    ],
)
def test_the_shipped_model_round_trips_exactly_by_every_sampler(
    model: EDICT,
    rough: EDICT,
    images: list[Image.Image],
    captions: list[str],
    name: str,
    steps: int,
    strength: float,
    guidance_scale: float,
    dtype: torch.dtype,
) -> None:
    network = model if dtype == torch.float32 else rough
    start = network.encode(images[:2])
    given = {"steps": steps, "strength": strength, "guidance_scale": guidance_scale}
    pair = network.invert(start, captions[:2], **given, batch_size=2, sampler=name)
    assert (pair.sampling.name, pair.position) == (name, 0)
    assert not torch.equal(pair.x, start.x)
    same = network.generate(pair, captions[:2], output_type="latent")
    assert (same.digests(), same.drift().tolist()) == (start.digests(), [0.0] * 2)
    branch, _ = network.integrate(pair, captions[:2], pair.schedule.num_steps // 2)
    direct, _ = network.integrate(
        network.prepare(start, sampling(**given, name=name), 2), captions[:2], branch.position
    )
    assert branch.digests() == direct.digests()


def test_y_of_a_two_step_method_is_in_the_scale_of_the_next_position(
    model: EDICT, images: list[Image.Image], captions: list[str]
) -> None:
    pair = model.invert(images[:2], captions[:2], steps=3, guidance_scale=1.0, sampler="bdia")
    next_, _ = model.integrate(pair, captions[:2], 1)
    assert torch.equal(pair.to_float()[1], next_.to_float()[0])
    assert pair.scales == (pair.schedule.scale(0), pair.schedule.scale(1))
    x, y = pair.to_float()
    assert pair.drift()[1].item() == pytest.approx((x[1] - y[1]).square().mean().sqrt().item(), rel=1e-12)
    assert pair.std()[1].item() == pytest.approx(x[1].std(correction=0).item(), rel=1e-12)
    assert replace(pair, position=3).scales == (pair.schedule.scale(3),) * 2


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_edit_uses_the_sampler_of_the_pair(
    model: EDICT, images: list[Image.Image], captions: list[str], name: str
) -> None:
    """A controlled edit under the caption is a regeneration. Under another prompt it differs, except after one step."""
    start = model.encode(images[:2])
    pair = model.invert(start, captions[:2], steps=4, guidance_scale=1.0, batch_size=4, sampler=name)
    prompts = [[captions[0], "blue heart"], ["a dog on a blue background"]]
    same = model.generate(pair, captions[:2], output_type="latent")
    made, faults = model.edit(pair, captions[:2], prompts, control=Control())
    assert not faults and (made.sampling.name, made.position) == (name, 4)
    digests = made.digests()
    if SAMPLERS[name].exact:
        assert same.digests() == start.digests() == [digests[0], digests[3]]
    assert digests[1] == digests[0] and len({*digests}) == 4
    last, _ = model.integrate(pair, captions[:2], 3)
    one_step: Pair = model.generate(last, ["green heart", "a fox"], output_type="latent")
    assert (one_step.digests() == start.digests()) == (SAMPLERS[name].y_lead == 1)


def test_a_two_step_method_begins_from_one_state(model: EDICT, images: list[Image.Image]) -> None:
    start = model.encode(images[:1])
    apart = replace(start, y=start.y + 1)
    given = {"steps": 2, "strength": 1.0, "guidance_scale": 1.0}
    with pytest.raises(ValueError, match="bdia starts from one state: give x as both"):
        model.prepare(apart, sampling(**given, name="bdia"))
    assert model.prepare(apart, sampling(**given)).sampling.name == "edict"


def test_an_unknown_sampler_is_an_error_before_images_are_encoded(rough: EDICT) -> None:
    with pytest.raises(ValueError, match="sampler is 'plms': expected 'edict', 'bdia', 'obelm', 'ddim' or"):
        rough.invert([], [], sampler="plms")
