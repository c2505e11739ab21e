"""A pipeline of diffusers with a small random network, and its exact round trip through a scheduler of `edict`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from edict import Pair
from edict.schedulers import LatticeScheduler

BATCH = 2


@dataclass(frozen=True)
class Trial:
    """A pipeline, and the arguments of its call.

    Attributes:
        pipe: The pipeline, with a small random network.
        shape: The shape of `latents=` in the pipeline's own layout.
        call: The arguments of every call.
        guided: The arguments that turn guidance on.
        unguided: The arguments that turn guidance off.
        dtype: The dtype of `latents=`; None means that of the network.
        denoiser: The name of the component that predicts, or the names of several.
        call_latents: Makes `latents=` of a call from the scheduler's latents, if they differ.
    """

    pipe: DiffusionPipeline
    shape: tuple[int, ...]
    call: dict[str, Any]
    guided: dict[str, Any] = field(default_factory=dict)
    unguided: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype | None = None
    denoiser: str | tuple[str, ...] = "transformer"
    call_latents: Callable[[torch.Tensor], torch.Tensor] = lambda latents: latents

    @property
    def networks(self) -> list[torch.nn.Module]:
        names = (self.denoiser,) if isinstance(self.denoiser, str) else self.denoiser
        return [getattr(self.pipe, name) for name in names]


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


def recipes() -> dict[str, Recipe]:
    """Return the recipes of every file of this folder."""
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if not file.stem.startswith(("test_", "_")):
            import_module(f"tests.recipes.{file.stem}")
    return RECIPES


@contextmanager
def unset_is_nan() -> Iterator[None]:
    """Fill memory that is not set with NaN within the block."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def random(kind: Any, dtype: torch.dtype, **config: Any) -> Any:
    """Return a network of a class with the same random weights in every call.

    Parameters that the class leaves at zero, or does not set, are random, too. Modules that the class keeps in float32
    are in float32, as after `from_pretrained`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with unset_is_nan():
            network = kind(**config)
        for parameter in network.parameters():
            # A gate of zeros would make the prediction independent of the latents.
            if parameter.ndim and not (parameter.detach().any() and parameter.detach().isfinite().all()):
                torch.nn.init.normal_(parameter, std=0.1)
    kept = getattr(kind, "_keep_in_fp32_modules", None) or ()
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        if tensor.is_floating_point() and not {*name.split(".")} & {*kept}:
            tensor.data = tensor.data.to(dtype)
    return network.eval().requires_grad_(False)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Return normal noise that depends only on the shape and the seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def prompt_mask(dtype: torch.dtype = torch.long) -> torch.Tensor:
    """Return the mask of prompts of 5 and 3 tokens, [N, 5]."""
    return torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=dtype)


@dataclass(frozen=True)
class RoundTrip:
    """The pairs of a round trip. `calls` and `steps` are the network calls and the timesteps of each direction."""

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
    count = lambda *_: calls.__setitem__(0, calls[0] + 1)  # noqa: E731
    hooks = [network.register_forward_hook(count) for network in trial.networks]
    try:
        latents = trial.call_latents(scheduler.invert(start).to(trial.dtype or dtype))
        pipe(**given, latents=latents, output_type="latent")
        noise, inverting, invert_steps = scheduler.pair, calls[0], len(scheduler.timesteps)
        latents = trial.call_latents(scheduler.generate(noise).to(trial.dtype or dtype))
        pipe(**given, latents=latents, output_type="latent")
    finally:
        for hook in hooks:
            hook.remove()
    generating = calls[0] - inverting
    return RoundTrip(start, noise, scheduler.pair, (inverting, generating), (invert_steps, len(scheduler.timesteps)))
