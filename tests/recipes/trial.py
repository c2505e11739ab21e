"""A pipeline of diffusers with a small random network, and its exact round trip through a scheduler of `edict`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline

from edict import Pair
from edict.schedulers import LatticeScheduler

BATCH = 2


@dataclass(frozen=True)
class Trial:
    """A pipeline, and what its call needs.

    `shape` is that of `latents=` in the pipeline's own layout. `call` are the arguments of every call; `guided` are
    those that turn guidance on, and `unguided` those that turn it off. `dtype` is the dtype that the pipeline wants its
    latents in, if that is not the network's. `denoiser` is the name of the component that predicts. `seeded` is for a
    call that draws noise before its loop, as for the latents of a control image: each call begins with the same seed.
    """

    pipe: DiffusionPipeline
    shape: tuple[int, ...]
    call: dict[str, Any]
    guided: dict[str, Any] = field(default_factory=dict)
    unguided: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype | None = None
    denoiser: str = "transformer"
    seeded: bool = False

    @property
    def network(self) -> torch.nn.Module:
        return getattr(self.pipe, self.denoiser)


Recipe = Callable[[torch.dtype], Trial]
RECIPES: dict[str, Recipe] = {}
"""The recipe of each pipeline by the name of its class. A suffix after a space names a variant."""


def recipe(*names: str) -> Callable[[Recipe], Recipe]:
    """Register a recipe: a function of the network's dtype that returns a Trial."""

    def register(made: Recipe) -> Recipe:
        for name in names:
            assert name not in RECIPES, name
            RECIPES[name] = made
        return made

    return register


def random(kind: Any, dtype: torch.dtype, **config: Any) -> Any:
    """Return a network of a class with random weights, always the same. Parameters that are zero are drawn, too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = kind(**config)
        for parameter in network.parameters():
            if parameter.ndim and not parameter.detach().any():  # gates that start closed would hide the latents
                torch.nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False).to(dtype)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Return normal noise that depends only on the shape and the seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@dataclass(frozen=True)
class RoundTrip:
    """The pairs of a round trip, and the number of the denoiser's calls in each direction."""

    start: Pair
    noise: Pair
    back: Pair
    calls: tuple[int, int]
    steps: tuple[int, int]


def round_trip(
    trial: Trial, kind: type[LatticeScheduler], *, steps: int, guided: bool, dtype: torch.dtype
) -> RoundTrip:
    """Invert random latents in the pipeline's own call, and generate them again."""
    pipe = trial.pipe
    pipe.set_progress_bar_config(disable=True)
    scheduler: Any = kind.from_config(pipe.scheduler.config)
    pipe.scheduler = scheduler
    given = {**trial.call, **(trial.guided if guided else trial.unguided), "num_inference_steps": steps}
    start = scheduler.encode(normal(*trial.shape, seed=1))
    calls = [0]
    hook = trial.network.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    try:
        if trial.seeded:
            torch.manual_seed(0)
        pipe(**given, latents=scheduler.invert(start).to(trial.dtype or dtype), output_type="latent")
        noise, inverting, asked = scheduler.pair, calls[0], len(scheduler.timesteps)
        if trial.seeded:
            torch.manual_seed(0)
        pipe(**given, latents=scheduler.generate(noise).to(trial.dtype or dtype), output_type="latent")
    finally:
        hook.remove()
    generating = calls[0] - inverting
    return RoundTrip(start, noise, scheduler.pair, (inverting, generating), (asked, len(scheduler.timesteps)))
