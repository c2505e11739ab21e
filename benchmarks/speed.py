"""Speed of the samplers: images per second of inversion and regeneration, as published and in this package.

`python -m benchmarks.speed`. Each contender takes a batch of clean latents to noise and back at equal steps, guidance
scale and p, with the text encoder and without the autoencoder. All run in one process, in turn. Figures are medians of
rounds, and a ratio is of one round.

- published: the authors' method, with float64 states and network, for one image, with one network call per branch of
  guidance. Its timesteps end at 0, where the last step calls the network but changes nothing
- float: the method of EDICTPipeline, of diffusers' community: float32 states and network, and both branches in one
  call. It takes one image at a time; the batch is added here
- lattice: the samplers of this package
"""

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks import oracle, published
from benchmarks.harness import alternate, differing_integers, dtype_name, program, ratios, run, save, show, spread
from edict import EDICT, Pair
from edict.integration import Predict
from edict.samplers import parameters, with_defaults
from edict.schedule import noise_schedule
from jobs.evaluation.truth import captioned_images
from schemas.sampling import Sampling

Figures = dict[str, float]
ERRORS = ("max_abs_error", "mse", "integers_differing")


class Contender(NamedTuple):
    """A method: `round_trip(rows, steps)` takes these rows to noise and back, and returns the errors."""

    name: str
    model: EDICT
    batch: int
    round_trip: Callable[[slice, int], Figures]


def errors(again: torch.Tensor, start: torch.Tensor) -> Figures:
    off = again.double() - start.double()
    return {"max_abs_error": float(off.abs().max()), "mse": float(off.square().mean())}


def with_floats(
    model: EDICT,
    clean: torch.Tensor,
    predictor: Callable[[slice], Predict],
    config: dict[str, Any],
    rows: slice,
    steps: int,
) -> Figures:
    """Run EDICT on states of the network's dtype, with the schedule of a scheduler's `config`."""
    plan, p = noise_schedule(config, steps), float(parameters(with_defaults(Sampling(), steps))["p"])
    start = clean[rows].to(model.network.dtype)
    noise = published.invert(start, start, plan, predictor(rows), p)
    again, _ = published.generate(*noise, plan, predictor(rows), p)
    return errors(again, start)


def on_lattice(
    model: EDICT, clean: Pair, captions: list[str], guidance_scale: float, sampler: str, rows: slice, steps: int
) -> Figures:
    start, texts = clean[rows], captions[rows]
    noise = model.invert(start, texts, steps=steps, guidance_scale=guidance_scale, sampler=sampler)
    again = model.generate(noise, texts, output_type="latent")
    return {
        "integers_differing": differing_integers(again, start),
        **errors(again.to_float()[0], start.to_float()[0]),
    }


def contenders(batch: int, guidance_scale: float) -> list[Contender]:
    """Return the contenders, with the published method first."""
    double, single, half = (EDICT.from_pretrained(dtype=d) for d in (torch.float64, torch.float32, torch.bfloat16))
    shown = captioned_images(count=batch)
    images, captions = [image.image for image in shown], [image.caption for image in shown]
    clean, latents = single.encode(images), single.encode(images, bits=oracle.UNROUNDED).to_float()[0]

    def floats(name: str, model: EDICT, rows: int, *, branches_per_call: int = 2, **config: Any) -> Contender:
        def predictor(part: slice) -> Predict:
            return oracle.guided(model, captions[part], guidance_scale, branches_per_call=branches_per_call)

        config = {**single.direct.scheduler_config, **config}
        return Contender(name, model, rows, partial(with_floats, model, latents, predictor, config))

    found = [floats("published", double, 1, branches_per_call=1, steps_offset=0)]
    found += [floats("float", single, rows) for rows in (1, batch)]
    for model in (single, half):
        for sampler in ("edict", "bdia"):
            round_trip = partial(on_lattice, model, clean, captions, guidance_scale, sampler)
            found.append(Contender(f"lattice, {sampler}", model, batch, round_trip))
    return found


@contextmanager
def measured(network: nn.Module) -> Iterator[Figures]:
    """Measure the `seconds` and the `rows` of the calls of a network within the block."""
    total = {"seconds": 0.0, "rows": 0.0}

    def before(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        total["rows"] += len(inputs[0])
        total["seconds"] -= time.perf_counter()

    def after(module: nn.Module, inputs: object, output: object) -> None:
        total["seconds"] += time.perf_counter()

    hooks = network.register_forward_pre_hook(before), network.register_forward_hook(after)
    yield total
    for hook in hooks:
        hook.remove()


def measure(contender: Contender, steps: int, numbers: Iterator[int]) -> Figures:
    """Measure one round trip. A contender with a batch of one takes the image with the next of `numbers`."""
    first = next(numbers) if contender.batch == 1 else 0
    with measured(contender.model.network) as network:
        began = time.perf_counter()
        found = contender.round_trip(slice(first, first + contender.batch), steps)
        seconds = time.perf_counter() - began
    return {
        "seconds_per_image": seconds / contender.batch,
        "evaluations": network["rows"] / contender.batch,
        "outside_the_network": 1 - network["seconds"] / seconds,
        **found,
    }


def summary(contender: Contender, rounds: list[Figures], reference: list[Figures]) -> dict[str, Any]:
    """Return the medians of the rounds, the greatest errors, and the ratios to the rounds of the reference."""
    faster = ratios(*([one["seconds_per_image"] for one in figures] for figures in (reference, rounds)))
    return {
        "contender": contender.name,
        "network": dtype_name(contender.model.network.dtype),
        "batch": contender.batch,
        "evaluations": rounds[0]["evaluations"],
        "images_per_second": 1 / median(one["seconds_per_image"] for one in rounds),
        "ratio": median(faster),
        "ratios": faster,
        "outside_the_network": median(one["outside_the_network"] for one in rounds),
        **{name: max(one[name] for one in rounds) for name in rounds[0] if name in ERRORS},
    }


@program(batch=16, threads=1, steps=10, guidance=3.0, rounds=3)  # A CPU worker has one thread.
def speed(given: Namespace) -> None:
    with torch.inference_mode():
        compared = contenders(given.batch, given.guidance)
        for contender in compared:
            measure(contender, 1, iter([0]))  # The first call sets things up.
        calls = {i: partial(measure, each, given.steps, cycle(range(given.batch))) for i, each in enumerate(compared)}
        rounds = alternate(given.rounds, calls)
    rows = [summary(contender, rounds[i], rounds[0]) for i, contender in enumerate(compared)]
    columns: dict[str, Any] = {
        "": "contender",
        "network": "network",
        "batch": "batch",
        "evaluations per image": "evaluations:g",
        "images per second": "images_per_second:.2f",
        "times as fast as published": lambda row: spread(row["ratios"], 1),
        "outside the network": "outside_the_network:.1%",
        "max abs error": "max_abs_error:.1e",
        "mse": "mse:.1e",
        "integers that differ": "integers_differing",
    }
    show(rows, columns)
    save("speed", given, contenders=rows)


if __name__ == "__main__":
    run(__doc__, speed)
