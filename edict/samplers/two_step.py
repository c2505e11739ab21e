"""Two-step methods, BDIA and O-BELM: the next state is a combination of the last two and of one prediction.

On u = x / sqrt(alpha), with sigma_k the noise level at position k and h_k = sigma_k - sigma_(k+1), every consistent
method of this form that asks for one prediction a step is

    u_(k+1) = u_k + a_k (u_(k-1) - u_k) - (h_k + a_k h_(k-1)) eps(u_k)

since du / d sigma = eps: the prediction's coefficient is what makes a straight line come out right, whatever a_k is.
a_k = 0 is DDIM. The error of a step is (h_k^2 - a_k h_(k-1)^2) / 2 * d eps / d sigma, and terms of the third order.

The pair at position k is x = u_k and y = u_(k+1), so that y is one position ahead. At the clean end both are the clean
state: the last arrival asks for nothing, and the first step of the inversion is a DDIM step from there. An edit goes on
from the pair of the base prompt, as the authors' code for edits does: of s steps under a new prompt s - 1 ask for a
prediction, and one step alone changes nothing.

Generation contracts the difference of the states by a_k, and inversion expands it by 1 / a_k. At a_k <= 1 `contract`
undoes the rounding of `expand`. A larger a_k has no exact step on this lattice: inversion would divide the difference
by it, two neighbouring integers would become one, and no generation could distinguish them. So a_k is limited to 1,
and the method stays consistent. BDIA's is never above 1. O-BELM's is near the clean end, at one step in eight of Stable
Diffusion's schedule; docs/comparison.md has the effect on edits.
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
    """a_k = gamma sqrt(alpha_(k-1) / alpha_(k+1)).

    Zhang, Lewis, Kleijn: Exact Diffusion Inversion via Bi-directional Integration Approximation, ECCV 2024, 2307.10829:
    x_(k+1) = gamma (x_(k-1) - DDIM(k -> k-1)) + DDIM(k -> k+1). In the scale of x the states' distance is contracted by
    gamma a step. The default lies within the authors' range for edits, 0.92 to 1: at 1 an edit keeps every oscillation
    that its prompt sets off, and below 0.96 the inversion blows up those of the picture.
    """
    return float(gamma) * schedule.scale(k - 1) / schedule.scale(k + 1)


def obelm(schedule: Schedule, k: int) -> float:
    """a_k = (h_k / h_(k-1))^2, at which the error's second order vanishes.

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
    """Denoise; `weight(schedule, k, **parameters)` is a_k."""
    end = schedule.num_evaluated_steps  # from here on the state is the clean one
    for k in range(start + 1, stop + 1):  # to the pair at k
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
    """Add noise: the steps of `generate` undone, the last one first."""
    end = schedule.num_evaluated_steps  # from here on the state is the clean one
    for k in reversed(range(stop, start)):  # from the pair at k + 1
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
    """a_k as the lattice takes it, and what belongs to this very a_k before the prediction."""
    a = min(max(as_fraction(weight(schedule, k, **parameters)), MIN_WEIGHT), Fraction(1))
    return a, -(_step(schedule, k) + float(a) * _step(schedule, k - 1))


def _step(schedule: Schedule, k: int) -> float:
    return schedule.sigma(k) - schedule.sigma(k + 1)


BDIA = Sampler(partial(generate, weight=bdia), partial(invert, weight=bdia), y_lead=1, parameters={"gamma": 0.96})
OBELM = Sampler(partial(generate, weight=obelm), partial(invert, weight=obelm), y_lead=1, bits=16)
"""Its inversion expands rounding more than the others'."""
