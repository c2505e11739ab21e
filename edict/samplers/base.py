"""The interface of a sampler: two generators that yield queries, receive increments, and return a pair of states.

With u = x / sqrt(alpha), a denoising step is u' = u + (sigma' - sigma) * eps, which is an integer addition on the
lattice. A step of a flow is such an addition to x, with the velocity instead of eps.
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
"""The default of the lattice's fractional bits. Its rounding is far below that of pixels: see docs/choosing.md."""


@dataclass(frozen=True, eq=False)
class Query:
    """A state at which a sampler needs the network's prediction.

    The sampler receives the increment round(2^bits * gain * prediction), int64 [N, ...].

    Attributes:
        state: int64 [N, ...].
        position: The position in the schedule with the noise level of the state.
        step: The step with the timestep of the network call: `Schedule.timestep(step)`.
        gain: The factor of the prediction. A gain of 0 needs no prediction.
    """

    state: Tensor
    position: int
    step: int
    gain: float


States = tuple["Tensor", "Tensor"]
Steps = Generator[Query, Any, States]
Direction = Callable[["Tensor", "Tensor", "Schedule", Mapping[str, Fraction], int, int], Steps]
"""A function of (x, y, schedule, parameters, start, stop).

It returns the generator that integrates the pair from position `start` to `stop`.
"""


def answer_all(steps: Steps, answer: Callable[[Query], Any]) -> States:
    """Send the answer to each query of a generator. Return the states at its end."""
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
    """A method of sampling.

    Attributes:
        generate: Denoises the pair to `stop` >= `start`.
        invert: Adds noise to the pair, to `stop` <= `start`.
        exact: Generation undoes inversion to the integer.
        y_lead: The number of positions by which y is nearer to the clean end than x. At the clean end both are equal.
        bits: The default of the lattice's fractional bits.
        parameters: The weights, from 1/2 to 1, with their defaults.
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
        """Return the generator that integrates the pair from position `start` to `stop`, in either direction."""
        direction = self.generate if stop >= start else self.invert
        return direction(x, y, schedule, parameters, start, stop)

    def evaluated_steps(self, schedule: Schedule, start: int, stop: int) -> list[int]:
        """Return the step of each network call between two positions, in order of the calls.

        The generator runs on the number 0 instead of states, because its queries do not depend on the states.
        """
        steps, zero = list[int](), cast("Tensor", 0)

        def record(query: Query) -> int:
            if query.gain:
                steps.append(query.step)
            return 0

        ones = dict.fromkeys(self.parameters, Fraction(1))
        answer_all(self.integrate(zero, zero, schedule, ones, start, stop), record)
        return steps

    def evaluated_timesteps(self, schedule: Schedule, start: int, stop: int) -> list[float]:
        """Return the timestep of each network call between two positions, in order of the calls."""
        return [schedule.timestep(step) for step in self.evaluated_steps(schedule, start, stop)]
