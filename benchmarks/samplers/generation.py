"""Distance of generated images to real ones by sampler and steps: FID and KID.

`python -m benchmarks.samplers.generation`. The captions are those of every second pair of drawings of the held-out
images. Each sampler generates from the same noise, and the results are compared with the images of the other pairs. For
reference, so are the images that have these captions, and their reconstructions by the autoencoder: the result of a
perfect sampler.
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks.harness import program, run, save
from benchmarks.plots import FOLDER
from benchmarks.samplers import tables
from benchmarks.samplers.distance import features, frechet, kernel, kernel_subsets, standardized
from benchmarks.samplers.drawings import drawings
from edict import EDICT, Pair
from edict.lattice import to_lattice
from edict.samplers import SAMPLERS, sampling, with_defaults
from edict.samplers.base import BITS
from jobs.evaluation.bootstrap import mean_interval
from training.emoji import BACKGROUNDS

SHEET = FOLDER / "samplers_drawn.png"


def noise_pair(model: EDICT, name: str, captions: Sequence[str], given: Namespace, steps: int) -> Pair:
    """Return a pair of Gaussian noise of one seed. x equals y, or y is one step of DDIM ahead for two-step methods."""
    schedule, config = model.backend.schedule(sampling(steps=steps)), model.network.config
    shape = len(captions), config.in_channels, config.sample_size, config.sample_size
    noise = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = to_lattice(noise, schedule.scale(0), BITS)
    settings = {"steps": steps, "guidance_scale": given.guidance, "bits": BITS}
    pair = Pair(x, x.clone(), schedule, 0, sampling(name="ddim", **settings), given.batch)
    lead = SAMPLERS[name].y_lead
    y = model.integrate(pair, captions, lead)[0].x if lead else pair.x
    return replace(pair, y=y, sampling=with_defaults(sampling(name=name, **settings), steps))


def decode(model: EDICT, latents: torch.Tensor, batch: int) -> list[Image.Image]:
    return [image for part in latents.split(batch) for image in model.decode(part)]


def nearest_background(image: Image.Image) -> str:
    """Return the name of the background that is nearest to the median colour of the outermost two pixels."""
    pixels = np.asarray(image, np.float64)
    frame = np.ones(pixels.shape[:2], bool)
    frame[2:-2, 2:-2] = False
    colour = np.median(pixels[frame], 0)
    return min(BACKGROUNDS, key=lambda name: float(np.square(colour - BACKGROUNDS[name]).sum()))


def sheet(rows: Mapping[str, Sequence[Image.Image]], columns: int) -> Image.Image:
    """Draw a row for every name, with `columns` of its images."""
    side, left = next(iter(rows.values()))[0].width, 72
    canvas = Image.new("RGB", (left + side * columns, side * len(rows)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for j, (name, images) in enumerate(rows.items()):
        pen.text((4, side * j + side // 2), name, "black", font, anchor="lm")
        for i in range(columns):
            canvas.paste(images[i * len(images) // columns], (left + side * i, side * j))
    return canvas


def nearest_agree(found: np.ndarray, labels: Sequence[str], reference: np.ndarray, others: Sequence[str]) -> float:
    """Return the share of the features [N, D] whose nearest reference [M, D] has the same label."""
    nearest = [int(np.square(reference - one).sum(1).argmin()) for one in found]
    return float(np.mean([others[i] == label for i, label in zip(nearest, labels, strict=True)]))


def vendor(caption: str) -> str:
    """Return "noto" for "red heart, noto emoji on a blue background"."""
    return caption.rsplit(", ", 1)[1].split()[0]


def background(caption: str) -> str:
    return caption.split()[-2]


def measure(model: EDICT, given: Namespace) -> tuple[dict[str, Any], dict[str, list[Image.Image]]]:
    """Return the results, and the images at the fewest steps together with the real images of the captions."""
    pairs = drawings()
    own, real = ([one for pair in pairs[first::2][: given.pairs] for one in pair] for first in (0, 1))
    captions, images = [one.caption for one in own], [one.image for one in own]
    reference = features(model, [one.image for one in real], given.batch)
    target = standardized(reference, reference)
    floors: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    subsets: dict[tuple[str, int], np.ndarray] = {}

    def add(name: str, images: Sequence[Image.Image], steps: int = 0, **more: Any) -> np.ndarray:
        found = standardized(features(model, images, given.batch), reference)
        right = [nearest_background(image) == background(text) for image, text in zip(images, captions, strict=True)]
        kids = subsets[name, steps] = kernel_subsets(found, target, subsets=given.subsets, size=given.size)
        row = {
            "pictures": name,
            "steps": steps,
            **more,
            "background": mean_interval(np.array(right, np.float64)),
            "fid": frechet(found, target),
            "kid": kernel(found, target),
            "kid_subsets": [float(kids.mean()), float(kids.std())],
        }
        if ("ddim", steps) in subsets and name != "ddim":
            difference = kids - subsets["ddim", steps]
            row["kid_minus_ddim"] = [float(difference.mean()), float(difference.std())]
        (rows if steps else floors).append(row)
        print(row, flush=True)
        return found

    found = add("the pictures themselves", images)
    agreement = {
        label.__name__: nearest_agree(found, list(map(label, captions)), target, [label(one.caption) for one in real])
        for label in (vendor, background)
    }
    latents = [model.encode(images[i : i + given.batch]).to_float()[0] for i in range(0, len(images), given.batch)]
    add("the autoencoder's", decode(model, torch.cat(latents), given.batch))
    shown = {"themselves": images}
    names = [name for name in reversed(SAMPLERS) if name != "ddim_euler"]  # It generates as ddim does.
    for steps, name in product(given.steps, names):
        pair, faults = model.integrate(noise_pair(model, name, captions, given, steps), captions, steps)
        generated, lead = decode(model, pair.to_float()[0], given.batch), SAMPLERS[name].y_lead
        calls = lead + len(SAMPLERS[name].evaluated_steps(model.backend.schedule(sampling(steps=steps)), 0, steps))
        add(name, generated, steps, calls=calls, left_the_lattice=len(faults))
        if steps == min(given.steps):
            shown[name] = generated
    sizes = {"captions": len(captions), "references": len(real), "dimensions": reference.shape[1]}
    return {**sizes, "nearest_has": agreement, "floors": floors, "rows": rows}, shown


@program(
    batch=16,
    threads=torch.get_num_threads(),
    pairs=96,  # of drawings, with two captions each
    steps=[10, 20, 50, 100],
    guidance=3.0,
    subsets=200,  # of KID
    size=96,  # images per subset
)
def generation(given: Namespace) -> None:
    found, shown = measure(EDICT.from_pretrained(), given)
    sheet(shown, 8).quantize(256).save(SHEET, optimize=True)
    tables.generation(found)
    save("samplers/generation", given, **found)


if __name__ == "__main__":
    run(__doc__, generation)
