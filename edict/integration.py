"""The integration of a pair along its schedule: a network answers the queries of a sampler, in integers.

The caller is a function (`solve`) or the loop of a pipeline of diffusers (`edict.schedulers`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from edict.lattice import MAX_STATE, LatticeOverflow, NonFinite, from_lattice, largest
from edict.pair import Pair
from edict.samplers import SAMPLERS, parameters
from edict.samplers.base import Query, answer_all
from edict.schedule import Schedule

Predict = Callable[[torch.Tensor, float], torch.Tensor]
"""A function of latents, float64 [N, ...] in the model's scale, and a timestep.

It returns the noise, or the velocity of a flow, in the same shape and any float dtype. A round trip is exact if the
same arguments give the same bits.
"""
Faults = dict[int, ArithmeticError]
"""The samples that failed, each with its error."""


class RangeMonitor:
    """The largest |integer| of each sample, and a flag that is true while all of its predictions are finite.

    Both are kept on the device, so that nothing waits for the device before `faults`.
    """

    def __init__(self, states: torch.Tensor) -> None:
        self.largest = states.new_zeros(len(states))
        self.finite = states.new_ones(len(states)).bool()

    def observe_state(self, state: torch.Tensor) -> None:
        """Include a state, int64 [N, ...]."""
        self.largest = self.largest.maximum(largest(state))

    def observe_prediction(self, prediction: torch.Tensor) -> None:
        """Include a prediction of the network, float [N, ...]."""
        self.finite &= prediction.isfinite().flatten(1).all(1)

    def faults(self, bits: int) -> Faults:
        """Return the error of each sample with a state beyond the lattice's range or a non-finite prediction."""
        faults = Faults()
        for i, (found, finite) in enumerate(zip(self.largest.tolist(), self.finite.tolist(), strict=True)):
            if not finite:
                faults[i] = NonFinite(
                    "the network predicted NaN or infinity. float16 overflows easily: use bfloat16 or float32"
                )
            elif found >= MAX_STATE:
                faults[i] = LatticeOverflow(found, MAX_STATE, bits)
        return faults


class Integration:
    """The integration of a pair to another position of its schedule, by its sampler.

    Until it has `ended`, call the network on `latents` at `timestep`, and give the prediction to `answer`. Then `pair`
    is at the new position. An error of one sample must not end the others, so `monitor` collects the errors.
    """

    def __init__(
        self,
        pair: Pair,
        to: int,
        monitor: RangeMonitor | None = None,
        on_answer: Callable[[], object] | None = None,
    ) -> None:
        """Begin the integration of a pair to the position `to`. `on_answer` is called after each network call."""
        self.pair, self.to = pair, to
        self.monitor = RangeMonitor(pair.x) if monitor is None else monitor
        self.query: Query | None = None
        self.on_answer = on_answer
        self._observe(pair.x, pair.y)
        weights, sampler = parameters(pair.sampling), SAMPLERS[pair.sampling.name]
        self._steps = sampler.integrate(pair.x, pair.y, pair.schedule, weights, pair.position, to)
        self._send(None)

    @property
    def ended(self) -> bool:
        """True when the pair has reached its position."""
        return self.query is None

    @property
    def latents(self) -> torch.Tensor:
        """The state of the query, float64 [N, ...] in the model's scale."""
        query = self._pending_query()
        return from_lattice(query.state, self.pair.schedule.scale(query.position), self.pair.bits)

    @property
    def timestep(self) -> float:
        """The timestep of the query."""
        return self.pair.schedule.timestep(self._pending_query().step)

    def answer(self, prediction: torch.Tensor) -> None:
        """Give the network's prediction, float [N, ...], for the present query, and continue to the next one."""
        query = self._pending_query()
        if self.on_answer is not None:
            self.on_answer()
        self.monitor.observe_prediction(prediction)
        increment = (prediction.double().nan_to_num() * (2.0**self.pair.bits * query.gain)).round()
        # The bound is beyond every valid state, so the monitor finds such samples. Below it, no addition overflows.
        self._send(increment.clamp(-2 * MAX_STATE, 2 * MAX_STATE).long())

    def _pending_query(self) -> Query:
        if self.query is None:
            raise RuntimeError(
                "the pair has reached its position, so no network call is left: stop when `ended` is true"
            )
        return self.query

    def _send(self, increment: torch.Tensor | None) -> None:
        try:
            query = self._steps.send(increment)
            while query.gain == 0:
                query = self._steps.send(torch.zeros_like(query.state))
        except StopIteration as end:
            x, y = end.value
            self._observe(x, y)
            self.pair, self.query = replace(self.pair, x=x, y=y, position=self.to), None
            del self._steps  # A generator cannot be copied or pickled.
        else:
            self._observe(query.state)
            self.query = query

    def _observe(self, *states: torch.Tensor) -> None:
        for state in states:
            self.monitor.observe_state(state)


def solve(integration: Integration, predict: Predict) -> Pair:
    """Answer all queries of an integration by a function. Return the pair at its new position."""
    while not integration.ended:
        integration.answer(predict(integration.latents, integration.timestep))
    return integration.pair


def solve_floats(
    latents: torch.Tensor, sampler: str, schedule: Schedule, predict: Predict, start: int, stop: int
) -> torch.Tensor:
    """Integrate float latents [N, ...] from position `start` to `stop` without the lattice. Return float64 [N, ...].

    This is for the samplers with one state, ddim and ddim_euler, which are the baselines of published tables.
    """

    def increment(query: Query) -> torch.Tensor:
        prediction = predict(query.state * schedule.scale(query.position), schedule.timestep(query.step))
        return query.gain * prediction.double()

    u = latents.double() / schedule.scale(start)
    u, _ = answer_all(SAMPLERS[sampler].integrate(u, u, schedule, {}, start, stop), increment)
    return u * schedule.scale(stop)
