"""The lattice: mixing is undone exactly, division rounds correctly, and nothing overflows."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edict.lattice import (
    DENOMINATOR,
    MAX_STATE,
    MIN_WEIGHT,
    as_fraction,
    contract,
    expand,
    from_lattice,
    mix,
    rdiv,
    to_lattice,
    unmix,
)

states = st.integers(-MAX_STATE, MAX_STATE)


@st.composite
def weights(draw: st.DrawFn) -> Fraction:
    """p from 0.5 to 1 with a denominator of at most 10,000."""
    n = draw(st.integers(1, 10_000))
    return Fraction(draw(st.integers(math.ceil(n / 2), n)), n)


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


@settings(max_examples=300)
@given(x=st.lists(states, min_size=8, max_size=8), y=st.lists(states, min_size=8, max_size=8), p=weights())
@example(x=[MAX_STATE, -MAX_STATE] * 4, y=[-MAX_STATE, MAX_STATE] * 4, p=Fraction(1, 2))
@example(x=[MAX_STATE, -MAX_STATE] * 4, y=[-MAX_STATE, MAX_STATE] * 4, p=Fraction(5001, 10_000))
@example(x=[MAX_STATE, -MAX_STATE] * 4, y=[MAX_STATE, -MAX_STATE] * 4, p=Fraction(9_999, 10_000))
def test_mixing_undoes_unmixing_exactly(x: list[int], y: list[int], p: Fraction) -> None:
    a, b = mix(*unmix(torch.tensor(x), torch.tensor(y), p), p)
    assert (a.tolist(), b.tolist()) == (x, y)


@settings(max_examples=300)
@given(x=states, y=states, p=weights())
@example(x=MAX_STATE, y=-MAX_STATE, p=Fraction(5001, 10_000))
def test_mixing_and_unmixing_are_the_papers_equations_rounded_half_up(x: int, y: int, p: Fraction) -> None:
    mixed_x = half_up(p * x + (1 - p) * y)
    mixed_y = half_up(p * y + (1 - p) * mixed_x)
    assert [int(s) for s in mix(torch.tensor(x), torch.tensor(y), p)] == [mixed_x, mixed_y]
    unmixed_y = half_up((y - (1 - p) * x) / p)
    unmixed_x = half_up((x - (1 - p) * unmixed_y) / p)
    assert [int(s) for s in unmix(torch.tensor(x), torch.tensor(y), p)] == [unmixed_x, unmixed_y]


def test_unmixing_does_not_undo_mixing() -> None:
    """Mixing contracts x - y, so different pairs become equal."""
    p = Fraction(93, 100)
    x, y = (grid.flatten() for grid in torch.meshgrid(torch.arange(41), torch.arange(41), indexing="ij"))
    mixed = torch.stack(mix(x, y, p), 1)
    assert len(mixed.unique(dim=0)) < len(mixed)
    back = torch.stack(unmix(mixed[:, 0], mixed[:, 1], p), 1)
    assert not torch.equal(back, torch.stack([x, y], 1))


@st.composite
def shares(draw: st.DrawFn) -> Fraction:
    """Return weights from MIN_WEIGHT to 1."""
    n = draw(st.integers(1, DENOMINATOR))
    return Fraction(draw(st.integers(1, n)), n)


@settings(max_examples=500)
@given(values=st.lists(st.integers(-4 * MAX_STATE, 4 * MAX_STATE), min_size=8, max_size=8), a=shares())
@example(values=[4 * MAX_STATE, -4 * MAX_STATE] * 4, a=MIN_WEIGHT)
@example(values=[4 * MAX_STATE, -4 * MAX_STATE] * 4, a=Fraction(DENOMINATOR - 1, DENOMINATOR))
@example(values=[-3, -2, -1, 0, 1, 2, 3, 4], a=Fraction(2, 3))  # quotients with halves
@example(values=[-3, -2, -1, 0, 1, 2, 3, 4], a=Fraction(1))
def test_contracting_undoes_expanding_exactly(values: list[int], a: Fraction) -> None:
    expanded = expand(torch.tensor(values), a)
    assert expanded.tolist() == [half_up(value / a) for value in values]
    if expanded.abs().max() <= 2 * MAX_STATE:  # Beyond, the sampler reports an overflow.
        assert contract(expanded, a).tolist() == values


@settings(max_examples=300)
@given(value=st.integers(-2 * MAX_STATE, 2 * MAX_STATE), a=shares())
@example(value=2 * MAX_STATE, a=Fraction(1))
@example(value=-2 * MAX_STATE, a=Fraction(DENOMINATOR - 1, DENOMINATOR))
def test_contracting_rounds_the_exact_product_half_up(value: int, a: Fraction) -> None:
    assert int(contract(torch.tensor(value), a)) == half_up(value * a)


@pytest.mark.parametrize("a", [Fraction(5, 4), Fraction(2), Fraction(3, 2)])
def test_a_weight_above_one_could_not_be_undone(a: Fraction) -> None:
    values = torch.arange(-20, 20)
    assert not torch.equal(contract(expand(values, a), a), values)


@settings(max_examples=500)
@given(a=st.integers(-(2**60), 2**60), d=st.integers(1, 10_000))
@example(a=-1, d=2)
@example(a=1, d=2)
@example(a=-3, d=2)
@example(a=-7, d=14)
@example(a=-(2**60), d=10_000)
def test_rdiv_rounds_the_exact_quotient_half_up(a: int, d: int) -> None:
    assert int(rdiv(torch.tensor(a), d)) == half_up(Fraction(a, d))


def test_halves_go_up_on_both_sides_of_zero() -> None:
    assert rdiv(torch.tensor([-5, -3, -1, 1, 3, 5]), 2).tolist() == [-2, -1, 0, 1, 2, 3]


@given(
    values=st.lists(st.floats(-50, 50), min_size=1, max_size=16),
    alpha=st.floats(1e-3, 1),
    bits=st.integers(4, 20),
)
def test_a_latent_moves_by_at_most_half_a_unit(values: list[float], alpha: float, bits: int) -> None:
    latents = torch.tensor(values, dtype=torch.float64)
    unit = alpha**0.5 / 2**bits
    back = from_lattice(to_lattice(latents, alpha, bits), alpha, bits)
    assert back.dtype == torch.float64
    assert (back - latents).abs().max() <= unit / 2 * (1 + 1e-9)


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=16), st.floats(1e-3, 1), st.integers(4, 20))
def test_float64_represents_every_lattice_state(integers: list[int], alpha: float, bits: int) -> None:
    assert to_lattice(from_lattice(torch.tensor(integers), alpha, bits), alpha, bits).tolist() == integers


@pytest.mark.parametrize(
    ("p", "fraction"),
    [
        (0.93, Fraction(93, 100)),
        (0.5, Fraction(1, 2)),
        (1.0, Fraction(1)),
        (1, Fraction(1)),
        (0.9643, Fraction(9643, 10_000)),
    ],
)
def test_the_mixing_weight_is_the_decimal_that_was_written(p: float, fraction: Fraction) -> None:
    assert as_fraction(p) == fraction
