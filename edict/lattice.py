"""The integer lattice the coupled states live on, and the mixing of EDICT as an exactly undone integer map.

A state x is held as the int64 X = round(2^bits * x / scale), scale being sqrt(alpha) at its noise level, 1 in a flow.
On that scale a half-step of the sampler is an addition, undone by subtracting the same integer, and mixing is a
division with rounding.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MAX_STATE = 2**45  # up to here no product of this file leaves int64
DENOMINATOR = 10_000  # the largest of a weight
MIN_WEIGHT = Fraction(1, DENOMINATOR)  # the smallest weight there is


EXPANSION = (
    "Inversion expands x - y at every step, edict by 1/p^2 and bdia by 1/gamma: raise p, or gamma, execute fewer steps "
    "(steps, strength), lower the guidance scale, or lower the bits"
)


class LatticeOverflow(ArithmeticError):
    """A state left the range of integers it is computed or stored in; the message says which, and what helps."""

    def __init__(self, largest: float, limit: int, bits: int, remedy: str = EXPANSION) -> None:
        super().__init__(f"a lattice state grew to {largest:.1e}, beyond {limit:.1e}, at {bits} bits. {remedy}")


class NonFinite(ArithmeticError):
    """A network returned NaN or infinity."""


def note_sample(fault: ArithmeticError, i: int, count: int) -> ArithmeticError:
    """Add a note that names the sample to a fault, and return the fault."""
    fault.add_note(f"sample {i} of {count}")
    return fault


def to_lattice(latents: torch.Tensor, scale: float, bits: int) -> torch.Tensor:
    """Round latents, float [N, ...] in the model's scale, to int64 [N, ...].

    `scale` is that of the schedule at the position of the latents.

    Raises:
        NonFinite, LatticeOverflow: a sample has no integers below LIMIT. A note names the first such sample.
    """
    scaled = latents.double() * (2.0**bits / scale)
    for i, largest in enumerate(scaled.abs().reshape(len(scaled), -1).amax(1).tolist()):
        if largest < MAX_STATE:
            continue
        fault: ArithmeticError = NonFinite("the latents of the image hold NaN or infinity: check the autoencoder")
        if math.isfinite(largest):
            fault = LatticeOverflow(
                largest, MAX_STATE, bits, "The latents of the image are this large: check the autoencoder"
            )
        raise note_sample(fault, i, len(latents))
    return scaled.round().long()


def from_lattice(states: torch.Tensor, scale: float, bits: int) -> torch.Tensor:
    """int64 [...] -> float64 [...] in the model's scale."""
    return states.double() * (scale / 2.0**bits)


def largest(states: torch.Tensor) -> torch.Tensor:
    """Return the largest magnitude of each sample of int64 [N, ...], as int64 [N].

    The magnitude of the smallest int64 is the largest int64, because `abs` of it is negative.
    """
    least, most = states.flatten(1).aminmax(dim=1)
    return most.maximum(-least.clamp(min=1 - 2**63))


def rdiv(a: torch.Tensor, d: int) -> torch.Tensor:
    """a / d rounded half up, floor((2a + d) / 2d), in int64."""
    return (2 * a + d) // (2 * d)


def as_fraction(p: float) -> Fraction:
    """A weight as m/n with a denominator of at most DENOMINATOR (0.93 is 93/100)."""
    return Fraction(str(p)).limit_denominator(DENOMINATOR)


def mix(x: torch.Tensor, y: torch.Tensor, p: Fraction) -> tuple[torch.Tensor, torch.Tensor]:
    """x' = p x + (1 - p) y ; y' = p y + (1 - p) x', rounded (EDICT, equation 14). Undoes `unmix` exactly."""
    m, n = p.numerator, p.denominator
    x = rdiv(m * x + (n - m) * y, n)
    y = rdiv(m * y + (n - m) * x, n)
    return x, y


def unmix(x: torch.Tensor, y: torch.Tensor, p: Fraction) -> tuple[torch.Tensor, torch.Tensor]:
    """The states before `mix`, rounded: mix(*unmix(x, y, p), p) == (x, y) for every integer pair.

    Rounding moves each state by at most 1/2, `mix` shrinks that by p < 1, and its own rounding removes it. The other
    order, unmix(mix(x, y)), is not exact: mixing contracts x - y and so loses bits.
    """
    m, n = p.numerator, p.denominator
    y = rdiv(n * y - (n - m) * x, m)
    x = rdiv(n * x - (n - m) * y, m)
    return x, y


def contract(states: torch.Tensor, a: Fraction) -> torch.Tensor:
    """a times int64 [...], rounded, for SHARE <= a <= 1. Undoes `expand` exactly. Holds up to 2 * LIMIT."""
    return rdiv(a.numerator * states, a.denominator)


def expand(states: torch.Tensor, a: Fraction) -> torch.Tensor:
    """int64 [...] / a, rounded: contract(expand(states, a), a) == states for every integer. Holds up to 4 * LIMIT.

    Rounding moves the quotient by at most 1/2, `contract` shrinks that by a < 1, and its own rounding removes it; at 1
    neither rounds. At more than 1 it would be widened. The other order is not exact: contracting loses bits.
    """
    return rdiv(a.denominator * states, a.numerator)
