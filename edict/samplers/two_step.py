"""Two-step methods, BDIA and O-BELM: the next state is a combination of the last two states and one prediction.

Let u = x / sqrt(alpha), let sigma_k be the noise level at position k, and let h_k = sigma_k - sigma_(k+1). Every
consistent method of this form with one prediction per step is

    u_(k+1) = u_k + a_k (u_(k-1) - u_k) - (h_k + a_k h_(k-1)) eps(u_k)

because du / d sigma = eps: with this coefficient of the prediction, a straight line is exact for every a_k.
a_k = 0 is DDIM. The error of a step is (h_k^2 - a_k h_(k-1)^2) / 2 * d eps / d sigma, and terms of the third order.

The pair at position k is x = u_k and y = u_(k+1), so y is one position ahead. At the clean end both equal the clean
state. So the last step of a generation makes no network call, and the first step of an inversion is a DDIM step. An
edit continues from the pair of the base prompt, as in the authors' code. So an edit of s steps makes s - 1 network
calls, and an edit of one step changes nothing.

Generation contracts the difference of the states by a_k, and inversion expands it by 1 / a_k. For a_k <= 1, `contract`
undoes the rounding of `expand`. A larger a_k has no exact step on this lattice: inversion would map two neighbouring
integers to one, and generation could not distinguish them. So a_k is limited to 1, and the method stays consistent.
a_k of BDIA never exceeds 1. a_k of O-BELM does near the clean end, in one step of eight of Stable Diffusion's schedule.
docs/comparison.md has the effect on edits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

from edict.lattice import MIN_WEIGHT, as_fraction, contract, expand
from edict.samplers.base import Query, Sampler, Steps
from edict.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor


def bdia(schedule: Schedule, k: int, gamma: Fraction) -> float:
    """Return a_k = gamma sqrt(alpha_(k-1) / alpha_(k+1)).

    Zhang, Lewis, Kleijn: Exact Diffusion Inversion via Bi-directional Integration Approximation, ECCV 2024, 2307.10829:
    x_(k+1) = gamma (x_(k-1) - DDIM(k -> k-1)) + DDIM(k -> k+1). In the scale of x, each step contracts the difference
    of the states by gamma. The default is in the authors' range for edits, 0.92 to 1. At 1, an edit keeps every
    oscillation that its prompt causes. Below 0.96, inversion amplifies the oscillations of the image.
    """
    return float(gamma) * schedule.scale(k - 1) / schedule.scale(k + 1)


def obelm(schedule: Schedule, k: int) -> float:
    """Return a_k = (h_k / h_(k-1))^2, for which the second order of the error is zero.

    Wang et al.: BELM: Bidirectional Explicit Linear Multi-step Sampler for Exact Inversion in Diffusion Models, NeurIPS
    2024, 2410.07273, O-BELM.
    """
    return (_step(schedule, k) / _step(schedule, k - 1)) ** 2


def generate(
    x: Tensor,
    y: Tensor,
    schedule: Schedule,
    parameters: Mapping[str, Fraction],
    start: int,
    stop: int,
    *,
    weight: Callable[..., float],
) -> Steps:
    """Denoise. `weight(schedule, k, **parameters)` is a_k."""
    end = schedule.num_evaluated_steps  # From this position on, the state is the clean one.
    for k in range(start + 1, stop + 1):  # Each iteration makes the pair at k.
        if k >= end:
            x = y
        else:
            a, gain = _coefficients(schedule, k, weight, parameters)
            increment = yield Query(y, k, k, gain)
            x, y = y, y + contract(x - y, a) + increment
    return x, y


def invert(
    x: Tensor,
    y: Tensor,
    schedule: Schedule,
    parameters: Mapping[str, Fraction],
    start: int,
    stop: int,
    *,
    weight: Callable[..., float],
) -> Steps:
    """Add noise: undo the steps of `generate`, the last one first."""
    end = schedule.num_evaluated_steps  # From this position on, the state is the clean one.
    for k in reversed(range(stop, start)):  # Each iteration begins with the pair at k + 1.
        if k == end - 1:
            x, y = x - (yield Query(x, end, k, -_step(schedule, k))), x
        elif k < end:
            a, gain = _coefficients(schedule, k + 1, weight, parameters)
            increment = yield Query(x, k + 1, k + 1, gain)
            x, y = x + expand(y - x - increment, a), x
    return x, y


def _coefficients(
    schedule: Schedule, k: int, weight: Callable[..., float], parameters: Mapping[str, Fraction]
) -> tuple[Fraction, float]:
    """Return a_k on the lattice, and the gain of the prediction for it."""
    a = min(max(as_fraction(weight(schedule, k, **parameters)), MIN_WEIGHT), Fraction(1))
    return a, -(_step(schedule, k) + float(a) * _step(schedule, k - 1))


def _step(schedule: Schedule, k: int) -> float:
    """Return h_k."""
    return schedule.sigma(k) - schedule.sigma(k + 1)


BDIA = Sampler(partial(generate, weight=bdia), partial(invert, weight=bdia), y_lead=1, parameters={"gamma": 0.96})
OBELM = Sampler(partial(generate, weight=obelm), partial(invert, weight=obelm), y_lead=1, bits=16)
"""O-BELM has more bits by default, because its inversion expands rounding more."""
