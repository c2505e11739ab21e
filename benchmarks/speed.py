"""What the sampler takes: pictures a second through inversion and regeneration, the published way and here.

`python -m benchmarks.speed`. Latents in, latents out: each contender takes a batch of clean latents to noise and back
at equal steps, guidance and p, with the text encoder and without the autoencoder. All are in one process and take
turns; figures are medians of rounds, and a ratio is one of the same round.

- published: the authors' code, written anew: float64 states and network, one picture, a network call for each branch
  of guidance, and timesteps that end at 0, where the last step changes nothing and is asked for all the same
- float: as diffusers' community pipeline (EDICTPipeline): float32 states and network, both branches in one call; for
  one picture, as it is, and for a batch, which it does not offer
- lattice: this package's samplers
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks import oracle, published
from benchmarks.exactness import differing
from benchmarks.record import parser, save
from edict import EDICT, Pair
from edict.integration import Predict
from edict.samplers import parameters, resolved
from edict.schedule import schedule
from jobs.evaluation.record import table
from jobs.evaluation.truth import pictures
from schemas.sampling import Sampling

Figures = dict[str, float]
ERRORS = ("max_abs_error", "mse", "integers_differing")
Predictor = Callable[[EDICT, list[str], float], Predict]


@dataclass(frozen=True)
class Contender:
    """`trip(rows, steps)` takes the pictures `rows` to noise and back, and tells how far off they are then."""

    name: str
    model: EDICT
    batch: int
    trip: Callable[[slice, int], Figures]


def apart(model: EDICT, captions: list[str], guidance_scale: float) -> Predict:
    """The guided prediction from two network calls, a branch each."""

    def branch(texts: list[str]) -> Predict:
        states = model.direct.condition(texts)["encoder_hidden_states"]
        return lambda latents, timestep: model.network(latents, timestep, states).sample

    without, with_text = branch([""] * len(captions)), branch(captions)

    def predict(latents: torch.Tensor, timestep: float) -> torch.Tensor:
        base = without(latents, timestep)
        return base + guidance_scale * (with_text(latents, timestep) - base)

    return predict


def in_floats(
    name: str,
    model: EDICT,
    clean: torch.Tensor,
    captions: list[str],
    guidance_scale: float,
    *,
    batch: int,
    predictor: Predictor,
    config: dict[str, Any],
) -> Contender:
    """EDICT on float states of the network's dtype, along the schedule of a scheduler's `config`."""

    def trip(rows: slice, steps: int) -> Figures:
        plan, p = schedule(config, steps), float(parameters(resolved(Sampling(), steps))["p"])
        start, texts = clean[rows].to(model.network.dtype), captions[rows]
        noise = published.invert(start, start, plan, predictor(model, texts, guidance_scale), p)
        again, _ = published.generate(*noise, plan, predictor(model, texts, guidance_scale), p)
        return errors(again, start)

    return Contender(name, model, batch, trip)


def on_the_lattice(
    name: str, model: EDICT, clean: Pair, captions: list[str], guidance_scale: float, *, batch: int, sampler: str
) -> Contender:
    def trip(rows: slice, steps: int) -> Figures:
        start, texts = clean[rows], captions[rows]
        noise = model.invert(start, texts, steps=steps, guidance_scale=guidance_scale, sampler=sampler)
        again = model.generate(noise, texts, output_type="latent")
        wrong = {"integers_differing": differing(again, start, {})}
        return wrong | errors(again.to_float()[0], start.to_float()[0])

    return Contender(name, model, batch, trip)


def errors(again: torch.Tensor, start: torch.Tensor) -> Figures:
    off = again.double() - start.double()
    return {"max_abs_error": float(off.abs().max()), "mse": float(off.square().mean())}


@contextmanager
def watched(network: nn.Module) -> Iterator[Figures]:
    """The `seconds` that calls of a network take while the context lasts, and the `rows` they are given."""
    seen = {"seconds": 0.0, "rows": 0.0}

    def before(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        seen["rows"] += len(given[0])
        seen["seconds"] -= time.perf_counter()

    def after(module: nn.Module, given: object, made: object) -> None:
        seen["seconds"] += time.perf_counter()

    hooks = network.register_forward_pre_hook(before), network.register_forward_hook(after)
    yield seen
    for hook in hooks:
        hook.remove()


def run(contender: Contender, first: int, steps: int) -> Figures:
    """One trip of a batch from the picture `first` on."""
    with watched(contender.model.network) as network:
        began = time.perf_counter()
        found = contender.trip(slice(first, first + contender.batch), steps)
        seconds = time.perf_counter() - began
    return {
        "seconds_a_picture": seconds / contender.batch,
        "evaluations": network["rows"] / contender.batch,
        "outside_the_network": 1 - network["seconds"] / seconds,
        **found,
    }


def contenders(batch: int, guidance_scale: float) -> list[Contender]:
    """The published way first."""
    double, single, half = (EDICT.from_pretrained(dtype=d) for d in (torch.float64, torch.float32, torch.bfloat16))
    shown = pictures(count=batch)
    images, captions = [picture.image for picture in shown], [picture.caption for picture in shown]
    clean, latents = single.encode(images), single.encode(images, bits=oracle.UNROUNDED).to_float()[0]
    config = single.direct.scheduler_config
    given = latents, captions, guidance_scale
    from_zero = config | {"steps_offset": 0}
    return [
        in_floats("published", double, *given, batch=1, predictor=apart, config=from_zero),
        in_floats("float", single, *given, batch=1, predictor=oracle.network, config=config),
        in_floats("float", single, *given, batch=batch, predictor=oracle.network, config=config),
        *(
            on_the_lattice(f"lattice, {sampler}", model, clean, captions, guidance_scale, batch=batch, sampler=sampler)
            for model in (single, half)
            for sampler in ("edict", "bdia")
        ),
    ]


def summary(contender: Contender, rounds: list[Figures], published: list[Figures]) -> dict[str, Any]:
    """Medians of rounds, the greatest errors, and the ratios to the published way's rounds."""
    ratios = [
        theirs["seconds_a_picture"] / ours["seconds_a_picture"] for theirs, ours in zip(published, rounds, strict=True)
    ]
    wrong = {name: max(one[name] for one in rounds) for name in rounds[0] if name in ERRORS}
    return {
        "contender": contender.name,
        "network": oracle.named(contender.model.network.dtype),
        "batch": contender.batch,
        "evaluations": rounds[0]["evaluations"],
        "images_per_second": 1 / median(one["seconds_a_picture"] for one in rounds),
        "ratio": median(ratios),
        "ratios": ratios,
        "outside_the_network": median(one["outside_the_network"] for one in rounds),
        **wrong,
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.set_defaults(threads=1)  # as a CPU worker has
    arguments.add_argument("--steps", type=int, default=10)
    arguments.add_argument("--guidance", type=float, default=3.0)
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    with torch.inference_mode():
        all_ = contenders(given.batch, given.guidance)
        for contender in all_:
            run(contender, 0, 1)  # what is set up at the first call
        rounds = defaultdict[int, list[Figures]](list)
        for number in range(given.rounds):
            for i, contender in enumerate(all_):
                rounds[i].append(run(contender, number % given.batch if contender.batch == 1 else 0, given.steps))
    rows = [summary(contender, rounds[i], rounds[0]) for i, contender in enumerate(all_)]
    print(f"{given.steps} steps, guidance {given.guidance:g}, {given.threads} threads, {given.rounds} rounds")
    head = (
        "",
        "network",
        "pictures at once",
        "evaluations a picture",
        "pictures/s",
        "x published",
        "outside the network",
        "max abs error",
        "mse",
        "integers that differ",
    )
    print(
        table(
            head,
            [
                [
                    row["contender"],
                    row["network"],
                    row["batch"],
                    f"{row['evaluations']:g}",
                    f"{row['images_per_second']:.2f}",
                    f"{row['ratio']:.1f} [{min(row['ratios']):.1f}, {max(row['ratios']):.1f}]",
                    f"{row['outside_the_network']:.1%}",
                    f"{row['max_abs_error']:.1e}",
                    f"{row['mse']:.1e}",
                    row.get("integers_differing", ""),
                ]
                for row in rows
            ],
        )
    )
    print(f"\nwritten to {save('speed', given, contenders=rows)}")


if __name__ == "__main__":
    main()
