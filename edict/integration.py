"""Moving a pair along its schedule: a sampler's queries answered by a network, in integers.

The caller may be a function (`solve`) or the loop of a diffusers pipeline (`edict.schedulers`).
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
"""predict(latents float64 [N, ...] in the model's scale, timestep) -> their noise, the same shape, any float dtype.

For a flow it is their velocity. The same arguments must give the same bits: then a round trip is exact.
"""
Faults = dict[int, ArithmeticError]
"""The samples that failed, each with its error."""


class RangeMonitor:
    """The largest |integer| of each sample, and whether all of its predictions were finite.

    Both are kept on the device, so that nothing waits for it before `faults`.
    """

    def __init__(self, states: torch.Tensor) -> None:
        self.largest = states.new_zeros(len(states))
        self.finite = states.new_ones(len(states)).bool()

    def observe_state(self, state: torch.Tensor) -> None:
        self.largest = self.largest.maximum(largest(state))

    def observe_prediction(self, prediction: torch.Tensor) -> None:
        self.finite &= prediction.isfinite().flatten(1).all(1)

    def faults(self, bits: int) -> Faults:
        """Return the error of each sample that left the lattice's range, or got a prediction that is not finite."""
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
    """A pair on its way to another position of its schedule, by its sampler.

    Until it has `ended`, call the network on `latents` at `timestep`, and give its prediction to `answer`. Then `pair`
    is at the new position. Errors of samples are collected in `monitor`, because one sample's error must not end the
    others: see `RangeMonitor.faults`. `on_answer` is called after each network call, for progress.
    """

    def __init__(
        self,
        pair: Pair,
        to: int,
        monitor: RangeMonitor | None = None,
        on_answer: Callable[[], object] | None = None,
    ) -> None:
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
        """Whether the pair has reached its position."""
        return self.query is None

    @property
    def latents(self) -> torch.Tensor:
        """The state of the query, float64 [N, ...] in the model's scale."""
        query = self._waiting()
        return from_lattice(query.state, self.pair.schedule.scale(query.position), self.pair.bits)

    @property
    def timestep(self) -> float:
        """The timestep of the query."""
        return self.pair.schedule.timestep(self._waiting().step)

    def answer(self, prediction: torch.Tensor) -> None:
        """Go on to the next query with the network's prediction, float [N, ...], for this one."""
        query = self._waiting()
        if self.on_answer is not None:
            self.on_answer()
        self.monitor.observe_prediction(prediction)
        increment = (prediction.double().nan_to_num() * (2.0**self.pair.bits * query.gain)).round()
        # The bound is beyond every state, and below it int64 does not wrap. The monitor finds what is beyond the range.
        self._send(increment.clamp(-2 * MAX_STATE, 2 * MAX_STATE).long())

    def _waiting(self) -> Query:
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
            del self._steps  # a generator, which nothing can copy or pickle
        else:
            self._observe(query.state)
            self.query = query

    def _observe(self, *states: torch.Tensor) -> None:
        for state in states:
            self.monitor.observe_state(state)


def solve(integration: Integration, predict: Predict) -> Pair:
    """Answer all queries of an integration by a function. Return the pair at the new position."""
    while not integration.ended:
        integration.answer(predict(integration.latents, integration.timestep))
    return integration.pair


def solve_floats(
    latents: torch.Tensor, sampler: str, schedule: Schedule, predict: Predict, start: int, stop: int
) -> torch.Tensor:
    """Move float latents [N, ...] from position `start` to `stop` without the lattice. Return float64 [N, ...].

    For samplers of one state, ddim and ddim_euler: the baselines that published tables compare with.
    """

    def increment(query: Query) -> torch.Tensor:
        prediction = predict(query.state * schedule.scale(query.position), schedule.timestep(query.step))
        return query.gain * prediction.double()

    u = latents.double() / schedule.scale(start)
    u, _ = answer_all(SAMPLERS[sampler].integrate(u, u, schedule, {}, start, stop), increment)
    return u * schedule.scale(stop)
