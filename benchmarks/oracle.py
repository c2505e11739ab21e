"""What the lattice costs and what it buys: its distance to real-valued EDICT, and the round trips of float states.

`python -m benchmarks.oracle`. Both sides of the distance use one float32 network, so that only the lattice differs.
"""

from argparse import Namespace
from typing import Any

import torch
from PIL import Image

from benchmarks import published
from benchmarks.record import numbers, parser, save
from edict import EDICT, Pair
from edict.integration import Predict
from edict.inversion import BITS
from edict.samplers import sampling
from edict.schedule import Schedule
from jobs.evaluation.record import table
from jobs.evaluation.truth import pictures

UNROUNDED = 40  # bits of a lattice too fine for float64 latents to tell from the reals here
FLOATS = (  # of the states, of the network
    (torch.float64, torch.float64),
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.bfloat16),
)


def network(model: EDICT, captions: list[str], guidance_scale: float) -> Predict:
    """The guided prediction in the network's own dtype; `model.predictor` would round a float64 one to float32."""

    def encode(texts: list[str]) -> torch.Tensor:
        return model.direct.condition(texts)["encoder_hidden_states"]

    states = torch.cat([encode([""] * len(captions)), encode(captions)])

    def predict(latents: torch.Tensor, timestep: float) -> torch.Tensor:
        without, with_text = model.network(
            torch.cat([latents] * 2).to(model.network.dtype), timestep, states
        ).sample.chunk(2)
        return without + guidance_scale * (with_text - without)

    return predict


def distances(images: list[Image.Image], captions: list[str], given: Namespace) -> list[dict[str, Any]]:
    """How far the noise pair lies from real-valued EDICT's, in standard deviations of the latter, by lattice bits."""
    model = EDICT.from_pretrained()
    clean, schedule = unrounded(model, images, given)
    real = torch.stack(published.invert(clean, clean, schedule, model.predictor(captions, given.guidance), given.p))
    rows = []
    for bits in given.bits:
        noise, differing, _ = on_the_lattice(model, images, captions, given, bits)
        off = (torch.stack(noise.to_float()) - real) / real.std()
        rows.append(
            {
                "bits": bits,
                "max": float(off.abs().max()),
                "rms": float(off.square().mean().sqrt()),
                "integers_differing": differing,
            }
        )
    return rows


def round_trips(images: list[Image.Image], captions: list[str], given: Namespace) -> list[dict[str, Any]]:
    """The mean squared error of the latents that come back, by what holds the states and what the network runs in."""
    rows = []
    for states, dtype in FLOATS:
        model = EDICT.from_pretrained(dtype=dtype)
        clean, schedule = unrounded(model, images, given)
        predict = network(model, captions, given.guidance)
        start = clean.to(states)
        noise = published.invert(start, start, schedule, predict, given.p)
        again, _ = published.generate(*noise, schedule, predict, given.p)
        error = float((again.double() - start.double()).square().mean())
        rows.append({"states": named(states), "network": named(dtype), "mse": error})
    _, _, error = on_the_lattice(EDICT.from_pretrained(dtype=torch.bfloat16), images, captions, given, BITS)
    rows.append({"states": f"lattice, {BITS} bits", "network": named(torch.bfloat16), "mse": error})
    return rows


def unrounded(model: EDICT, images: list[Image.Image], given: Namespace) -> tuple[torch.Tensor, Schedule]:
    """The latents [N, C, H, W] as float64, as good as not rounded to a lattice, and the schedule."""
    start = prepared(model, images, given, UNROUNDED)
    return start.to_float()[0], start.schedule


def prepared(model: EDICT, images: list[Image.Image], given: Namespace, bits: int) -> Pair:
    start = model.encode(images, bits=bits)
    return model.prepare(start, sampling(steps=given.steps, strength=1.0, guidance_scale=given.guidance, p=given.p))


def on_the_lattice(
    model: EDICT, images: list[Image.Image], captions: list[str], given: Namespace, bits: int
) -> tuple[Pair, int, float]:
    """The noise pair, how many integers differ after the round trip, and its mean squared error."""
    start = prepared(model, images, given, bits)
    noise = model.invert(start, captions, steps=given.steps, strength=1.0, guidance_scale=given.guidance, p=given.p)
    again = model.generate(noise, captions, output_type="latent")
    differing = int((again.x != start.x).sum() + (again.y != start.y).sum())
    return noise, differing, float((again.to_float()[0] - start.to_float()[0]).square().mean())


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--count", type=int, default=8, help="pictures, the first of the demo shards")
    arguments.add_argument("--steps", type=int, default=50)
    arguments.add_argument("--guidance", type=float, default=3.0)
    arguments.add_argument("--p", type=float, default=0.93)
    arguments.add_argument("--bits", type=numbers, default=[8, 10, 12, 14, 20])
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    shown = pictures()[: given.count]
    images, captions = [picture.image for picture in shown], [picture.caption for picture in shown]
    with torch.inference_mode():
        far = distances(images, captions, given)
        head = ("lattice bits", "max abs(x - oracle) / std", "rms / std", "integers differing after the round trip")
        print(table(head, [[r["bits"], f"{r['max']:.1e}", f"{r['rms']:.1e}", r["integers_differing"]] for r in far]))
        trips = round_trips(images, captions, given)
        print(
            "\n"
            + table(
                ("states", "network", "latent round trip mse"),
                [[r["states"], r["network"], f"{r['mse']:.1e}"] for r in trips],
            )
        )
    print(f"\nwritten to {save('oracle', given, distances=far, round_trips=trips)}")


if __name__ == "__main__":
    main()
