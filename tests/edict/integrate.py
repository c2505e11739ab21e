"""Both directions of a sampler along one schedule, with a function as the network."""

from collections.abc import Sequence

import torch

from edict import Pair
from edict.integration import Integration, Predict, solve
from edict.lattice import to_lattice
from edict.samplers import sampling, with_defaults
from edict.schedule import Schedule
from tests.edict.oracle import analytic

States = Sequence[torch.Tensor]

CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


class Run:
    """Runs of a sampler. `calls` has the timesteps of the last run, and `monitor` its range."""

    def __init__(
        self, name: str, plan: Schedule, bits: int = 12, predict: Predict = analytic, **parameters: float
    ) -> None:
        self.plan, self.predict = plan, predict
        self.sampling = with_defaults(sampling(name=name, bits=bits, **parameters), plan.num_steps)

    def invert(self, states: States, start: int | None = None, stop: int = 0) -> States:
        return self._move(states, self.plan.num_steps if start is None else start, stop)

    def generate(self, states: States, start: int = 0, stop: int | None = None) -> States:
        return self._move(states, start, self.plan.num_steps if stop is None else stop)

    def _move(self, states: States, start: int, stop: int) -> States:
        pair = Pair(*states, self.plan, start, self.sampling, len(states[0]))
        integration, self.calls = Integration(pair, stop), list[float]()
        self.monitor = integration.monitor
        moved = solve(integration, self._predict)
        assert moved.position == stop
        return moved.x, moved.y

    def _predict(self, x: torch.Tensor, timestep: float) -> torch.Tensor:
        assert (x.dtype, x.shape) == (torch.float64, (3, 4, 4, 4))
        self.calls.append(timestep)
        return self.predict(x, timestep)


def latents(samples: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def clean(plan: Schedule, bits: int = 12) -> States:
    x = to_lattice(latents(), plan.scale(plan.num_steps), bits)
    return x, x.clone()


def equal(one: States, other: States) -> bool:
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
