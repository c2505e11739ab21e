"""A sampler: two generators that yield queries, receive increments, and return a pair of states.

On u = x / sqrt(alpha) a denoising step is u' = u + (sigma' - sigma) * eps, so on the lattice it is an integer addition.
A flow's step is an addition on x itself, with the velocity for eps.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import Tensor

    from edict.schedule import Schedule

BITS = 12
"""Fractional bits of the lattice at which rounding is lost in the rounding of pixels: docs/choosing.md."""


@dataclass(frozen=True, eq=False)
class Query:
    """A state at which a sampler needs the network's prediction.

    `state` is int64 [N, ...], at the noise level of `position` of the schedule. The network is called at the timestep
    of `step`: `Schedule.timestep(step)`. The sampler receives the increment round(2^bits * gain * prediction), int64
    [N, ...]. A gain of 0 needs no prediction.
    """

    state: Tensor
    position: int
    step: int
    gain: float


States = tuple["Tensor", "Tensor"]
Steps = Generator[Query, Any, States]
Direction = Callable[["Tensor", "Tensor", "Schedule", Mapping[str, Fraction], int, int], Steps]
"""(x, y, schedule, parameters, start, stop) -> the generator that moves the pair from position `start` to `stop`."""


def answer_all(steps: Steps, answer: Callable[[Query], Any]) -> States:
    """Send the answer to each query of a generator. Return the states that it ends with."""
    increment = None
    while True:
        try:
            query = steps.send(increment)
        except StopIteration as end:
            states: States = end.value
            return states
        increment = answer(query)


@dataclass(frozen=True)
class Sampler:
    """A method. `generate` denoises the pair to `stop` >= `start`; `invert` adds noise, to `stop` <= `start`.

    `exact`: generation undoes inversion to the integer. `y_lead`: the number of positions by which y is nearer to the
    clean end than x; at the clean end both are one state. `parameters` are weights from 1/2 to 1 with their defaults
    (`resolve`). `bits` are those of the lattice by default.
    """

    generate: Direction
    invert: Direction
    exact: bool = True
    y_lead: int = 0
    bits: int = BITS
    parameters: Mapping[str, float] = field(default_factory=dict)

    def integrate(
        self, x: Tensor, y: Tensor, schedule: Schedule, parameters: Mapping[str, Fraction], start: int, stop: int
    ) -> Steps:
        """Return the generator that moves the pair from position `start` to `stop`, in either direction."""
        direction = self.generate if stop >= start else self.invert
        return direction(x, y, schedule, parameters, start, stop)

    def evaluated_steps(self, schedule: Schedule, start: int, stop: int) -> list[int]:
        """Return the step of each network call between two positions, in order of the calls.

        The generator runs on the number 0, because its queries do not depend on the states.
        """
        found, zero = list[int](), cast("Tensor", 0)

        def note(query: Query) -> int:
            if query.gain:
                found.append(query.step)
            return 0

        ones = dict.fromkeys(self.parameters, Fraction(1))
        answer_all(self.integrate(zero, zero, schedule, ones, start, stop), note)
        return found

    def evaluated_timesteps(self, schedule: Schedule, start: int, stop: int) -> list[float]:
        """Return the timestep of each network call between two positions, in order of the calls."""
        return [schedule.timestep(step) for step in self.evaluated_steps(schedule, start, stop)]
