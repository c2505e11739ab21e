"""The integer lattice of the coupled states, and the mixing of EDICT as an integer map that can be undone exactly.

A state x is stored as int64 X = round(2^bits * x / scale). The scale is sqrt(alpha) at its noise level, or 1 in a flow.
On the lattice, a half-step of the sampler adds an integer, and subtracting it undoes the half-step. Mixing is division
with rounding.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MAX_STATE = 2**45
"""The limit of |X|. Below it, no product in this file overflows int64."""
DENOMINATOR = 10_000
"""The largest denominator of a weight."""
MIN_WEIGHT = Fraction(1, DENOMINATOR)
"""The smallest weight."""
EXPANSION = (
    "Inversion expands x - y at every step, edict by 1/p^2 and bdia by 1/gamma: raise p, or gamma, execute fewer steps "
    "(steps, strength), lower the guidance scale, or lower the bits"
)


class LatticeOverflow(ArithmeticError):
    """A state left the range of integers in which it is computed or stored."""

    def __init__(self, largest: float, limit: int, bits: int, remedy: str = EXPANSION) -> None:
        super().__init__(f"a lattice state grew to {largest:.1e}, beyond {limit:.1e}, at {bits} bits. {remedy}")


class NonFinite(ArithmeticError):
    """A network or an autoencoder returned NaN or infinity."""


def note_sample(fault: ArithmeticError, i: int, count: int) -> ArithmeticError:
    """Add a note that names the sample to a fault, and return the fault."""
    fault.add_note(f"sample {i} of {count}")
    return fault


def to_lattice(latents: torch.Tensor, scale: float, bits: int) -> torch.Tensor:
    """Round latents, float [N, ...] in the model's scale, to the lattice, int64 [N, ...].

    `scale` is that of the schedule at the position of the latents.

    Raises:
        NonFinite: A sample has NaN or infinity. A note names the first such sample.
        LatticeOverflow: A sample has a value beyond MAX_STATE. A note names the first such sample.
    """
    scaled = latents.double() * (2.0**bits / scale)
    for i, largest in enumerate(scaled.abs().reshape(len(scaled), -1).amax(1).tolist()):
        if largest < MAX_STATE:
            continue
        fault: ArithmeticError = NonFinite("the latents of the image have NaN or infinity: check the autoencoder")
        if math.isfinite(largest):
            fault = LatticeOverflow(
                largest, MAX_STATE, bits, "The latents of the image are this large: check the autoencoder"
            )
        raise note_sample(fault, i, len(latents))
    return scaled.round().long()


def from_lattice(states: torch.Tensor, scale: float, bits: int) -> torch.Tensor:
    """Return states, int64 [...], in the model's scale, float64 [...]."""
    return states.double() * (scale / 2.0**bits)


def largest(states: torch.Tensor) -> torch.Tensor:
    """Return the largest magnitude of each sample of int64 [N, ...], as int64 [N].

    The magnitude of the smallest int64 is the largest int64, because `abs` of it is negative.
    """
    least, most = states.flatten(1).aminmax(dim=1)
    return most.maximum(-least.clamp(min=1 - 2**63))


def rdiv(a: torch.Tensor, d: int) -> torch.Tensor:
    """Return a / d in int64, rounded half up: floor((2a + d) / 2d)."""
    return (2 * a + d) // (2 * d)


def as_fraction(p: float) -> Fraction:
    """Return a weight as a fraction with a denominator of at most DENOMINATOR. 0.93 is 93/100."""
    return Fraction(str(p)).limit_denominator(DENOMINATOR)


def mix(x: torch.Tensor, y: torch.Tensor, p: Fraction) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x' = p x + (1 - p) y and y' = p y + (1 - p) x', rounded (EDICT, equation 14). Undo `unmix` exactly."""
    m, n = p.numerator, p.denominator
    x = rdiv(m * x + (n - m) * y, n)
    y = rdiv(m * y + (n - m) * x, n)
    return x, y


def unmix(x: torch.Tensor, y: torch.Tensor, p: Fraction) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the states before `mix`, rounded: mix(*unmix(x, y, p), p) == (x, y) for every pair of integers.

    Rounding moves each state by at most 1/2, `mix` shrinks this by p < 1, and its own rounding removes it. The other
    order, unmix(mix(x, y)), is not exact, because mixing contracts x - y and loses bits.
    """
    m, n = p.numerator, p.denominator
    y = rdiv(n * y - (n - m) * x, m)
    x = rdiv(n * x - (n - m) * y, m)
    return x, y


def contract(states: torch.Tensor, a: Fraction) -> torch.Tensor:
    """Return a * states, int64 [...], rounded, for MIN_WEIGHT <= a <= 1. It undoes `expand` exactly.

    The states can be up to 2 * MAX_STATE.
    """
    return rdiv(a.numerator * states, a.denominator)


def expand(states: torch.Tensor, a: Fraction) -> torch.Tensor:
    """Return states / a, int64 [...], rounded: contract(expand(states, a), a) == states for every integer.

    The states can be up to 4 * MAX_STATE. Rounding moves the quotient by at most 1/2, `contract` shrinks this by a < 1,
    and its own rounding removes it. At a = 1, nothing is rounded. The other order is not exact: contracting loses bits.
    """
    return rdiv(a.denominator * states, a.numerator)
