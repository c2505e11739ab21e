"""Effect of the integer lattice: its distance to real-valued EDICT, and the round trips of floating-point states.

`python -m benchmarks.oracle`. Both sides of the distance use the same float32 network, so only the lattice differs.
"""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import published
from benchmarks.harness import differing_integers, dtype_name, program, run, save, show
from edict import EDICT, Pair
from edict.integration import Predict
from edict.samplers import sampling
from edict.samplers.base import BITS
from jobs.evaluation.truth import CaptionedImage, captioned_images

UNROUNDED = 40  # Bits of a lattice that is finer than float64 latents are here.
FLOATS = (  # the dtypes of the states and of the network
    (torch.float64, torch.float64),
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.bfloat16),
)


def guided(model: EDICT, captions: list[str], guidance_scale: float, *, branches_per_call: int = 2) -> Predict:
    """Return the guided prediction in the dtype of the network, from one call for both branches or a call for each.

    `model.direct.predictor` would round a float64 prediction to float32.
    """

    def encode(texts: list[str]) -> torch.Tensor:
        return model.direct.condition(texts)["encoder_hidden_states"]

    texts = encode([""] * len(captions)), encode(captions)

    def predict(latents: torch.Tensor, timestep: float) -> torch.Tensor:
        latents = latents.to(model.network.dtype)
        if branches_per_call == 1:
            without, with_text = (model.network(latents, timestep, text).sample for text in texts)
        else:
            both = model.network(torch.cat([latents] * 2), timestep, torch.cat(texts)).sample
            without, with_text = both.chunk(2)
        return without + guidance_scale * (with_text - without)

    return predict


def prepare(model: EDICT, images: Sequence[CaptionedImage], given: Namespace, bits: int) -> Pair:
    """Return the clean pair of the images, at the end of the schedule."""
    start = model.encode([image.image for image in images], bits=bits)
    return model.prepare(start, sampling(steps=given.steps, strength=1.0, guidance_scale=given.guidance, p=given.p))


def lattice_round_trip(
    model: EDICT, images: Sequence[CaptionedImage], given: Namespace, bits: int
) -> tuple[Pair, int, float]:
    """Return the noise pair, the integers that differ after the round trip, and the mean squared error of x."""
    start, captions = prepare(model, images, given, bits), [image.caption for image in images]
    noise = model.invert(start, captions, steps=given.steps, strength=1.0, guidance_scale=given.guidance, p=given.p)
    again = model.generate(noise, captions, output_type="latent")
    error = float((again.to_float()[0] - start.to_float()[0]).square().mean())
    return noise, differing_integers(again, start), error


def distances(images: Sequence[CaptionedImage], given: Namespace) -> list[dict[str, Any]]:
    """Measure the distance of the noise pair to real-valued EDICT's, in its standard deviations, by bits."""
    model = EDICT.from_pretrained()
    start = prepare(model, images, given, UNROUNDED)
    predict = model.direct.predictor([image.caption for image in images], given.guidance)
    clean = start.to_float()[0]
    real = torch.stack(published.invert(clean, clean, start.schedule, predict, given.p))
    rows = []
    for bits in given.bits:
        noise, differing, _ = lattice_round_trip(model, images, given, bits)
        off = (torch.stack(noise.to_float()) - real) / real.std()
        errors = {"max": float(off.abs().max()), "rms": float(off.square().mean().sqrt())}
        rows.append({"bits": bits, **errors, "integers_differing": differing})
    return rows


def round_trips(images: Sequence[CaptionedImage], given: Namespace) -> list[dict[str, Any]]:
    """Measure the mean squared error of the regenerated latents, by the dtypes of the states and of the network."""
    rows = []
    for states, dtype in FLOATS:
        model = EDICT.from_pretrained(dtype=dtype)
        pair = prepare(model, images, given, UNROUNDED)
        start = pair.to_float()[0].to(states)
        predict = guided(model, [image.caption for image in images], given.guidance)
        noise = published.invert(start, start, pair.schedule, predict, given.p)
        again, _ = published.generate(*noise, pair.schedule, predict, given.p)
        error = float((again.double() - start.double()).square().mean())
        rows.append({"states": dtype_name(states), "network": dtype_name(dtype), "mse": error})
    _, _, error = lattice_round_trip(EDICT.from_pretrained(dtype=torch.bfloat16), images, given, BITS)
    return [*rows, {"states": f"lattice, {BITS} bits", "network": "bfloat16", "mse": error}]


@program(batch=16, threads=torch.get_num_threads(), count=8, steps=50, guidance=3.0, p=0.93, bits=[8, 10, 12, 14, 20])
def oracle(given: Namespace) -> None:
    images = captioned_images()[: given.count]
    with torch.inference_mode():
        far, trips = distances(images, given), round_trips(images, given)
    head = {"lattice bits": "bits", "max abs(x - oracle) / std": "max:.1e", "rms / std": "rms:.1e"}
    show(far, head | {"integers differing after the round trip": "integers_differing"})
    show(trips, {"states": "states", "network": "network", "latent round trip mse": "mse:.1e"})
    save("oracle", given, distances=far, round_trips=trips)


if __name__ == "__main__":
    run(__doc__, oracle)
