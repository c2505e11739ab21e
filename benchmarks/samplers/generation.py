"""How far the pictures that each sampler draws from noise lie from real ones: FID and KID, by steps.

`python -m benchmarks.samplers.generation`. Pictures are drawn under the captions of every second pair of drawings of
the held-out pictures, each sampler from the same noise, and compared with the pictures of the pairs between. So are the
pictures themselves that have these captions, and what the autoencoder makes of them: what a perfect sampler would get.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks.record import numbers, parser, save
from benchmarks.samplers.distance import features, frechet, kernel, kernel_subsets, standardized
from benchmarks.samplers.drawings import drawings
from edict import EDICT, Pair
from edict.inversion import BITS
from edict.lattice import to_lattice
from edict.samplers import SAMPLERS, resolved, sampling
from jobs.evaluation.edits import mean_interval
from jobs.evaluation.record import table
from training.emoji import BACKGROUNDS

SHEET = Path(__file__).parents[2] / "docs" / "pictures" / "samplers_drawn.png"


def noised(model: EDICT, name: str, captions: Sequence[str], given: Any, steps: int) -> Pair:
    """A pair to draw from, of Gaussian noise of one seed: x is y; of a two-step method y is one step of DDIM ahead."""
    schedule = model.model.schedule(sampling(steps=steps))
    channels, side = model.network.config.in_channels, model.network.config.sample_size
    noise = torch.randn(
        (len(captions), channels, side, side), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    x = to_lattice(noise, schedule.scale(0), BITS)
    settings = {"steps": steps, "guidance_scale": given.guidance, "bits": BITS}
    pair = Pair(x, x.clone(), schedule, 0, sampling(name="ddim", **settings), given.batch)
    ahead = pair.x if not SAMPLERS[name].y_lead else model.integrate(pair, captions, SAMPLERS[name].y_lead)[0].x
    return replace(pair, y=ahead, sampling=resolved(sampling(name=name, **settings), steps))


def drawn(model: EDICT, name: str, captions: Sequence[str], given: Any, steps: int) -> tuple[list[Image.Image], int]:
    """A picture a caption, and how many left the lattice."""
    pair, faults = model.integrate(noised(model, name, captions, given, steps), captions, steps)
    return decoded(model, pair.to_float()[0], given.batch), len(faults)


def decoded(model: EDICT, latents: torch.Tensor, batch: int) -> list[Image.Image]:
    return [image for part in latents.split(batch) for image in model.decode(part)]


def framed(image: Image.Image) -> str:
    """The name of the background nearest to the median colour of a picture's outermost two pixels."""
    pixels = np.asarray(image, np.float64)
    frame = np.ones(pixels.shape[:2], bool)
    frame[2:-2, 2:-2] = False
    colour = np.median(pixels[frame], 0)
    return min(BACKGROUNDS, key=lambda name: float(np.square(colour - BACKGROUNDS[name]).sum()))


def sheet(rows: Mapping[str, Sequence[Image.Image]], columns: int) -> Image.Image:
    """A row for every name, with so many of its pictures, evenly spread."""
    side, left = next(iter(rows.values()))[0].width, 72
    drawn = Image.new("RGB", (left + side * columns, side * len(rows)), "white")
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(12)
    for j, (name, images) in enumerate(rows.items()):
        pen.text((4, side * j + side // 2), name, "black", font, anchor="lm")
        for i in range(columns):
            drawn.paste(images[i * len(images) // columns], (left + side * i, side * j))
    return drawn


def nearest(found: np.ndarray, labels: Sequence[str], reference: np.ndarray, theirs: Sequence[str]) -> float:
    """The share of [N, D] whose nearest of [M, D] has the same label."""
    closest = [int(np.square(reference - one).sum(1).argmin()) for one in found]
    return float(np.mean([theirs[i] == label for i, label in zip(closest, labels, strict=True)]))


def vendor(caption: str) -> str:
    """As in "red heart, noto emoji on a blue background"."""
    return caption.rsplit(", ", 1)[1].split()[0]


def background(caption: str) -> str:
    return caption.split()[-2]


def measure(model: EDICT, given: Any) -> tuple[dict[str, Any], dict[str, list[Image.Image]]]:
    """What is written, and the pictures at the fewest steps beside those that the captions are of."""
    pairs = drawings()
    asked, real = ([one for pair in pairs[first::2][: given.pairs] for one in pair] for first in (0, 1))
    captions, themselves = [one.caption for one in asked], [one.image for one in asked]
    reference = features(model, [one.image for one in real], given.batch)
    target = standardized(reference, reference)
    floors: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    subsets: dict[tuple[str, int], np.ndarray] = {}

    def add(name: str, images: Sequence[Image.Image], steps: int = 0, **about: Any) -> np.ndarray:
        found = standardized(features(model, images, given.batch), reference)
        right = [framed(image) == background(caption) for image, caption in zip(images, captions, strict=True)]
        spread = subsets[name, steps] = kernel_subsets(found, target, subsets=given.subsets, size=given.size)
        row = {
            "pictures": name,
            "steps": steps,
            **about,
            "background": mean_interval(np.array(right, np.float64)),
            "fid": frechet(found, target),
            "kid": kernel(found, target),
            "kid_subsets": [float(spread.mean()), float(spread.std())],
        }
        if ("ddim", steps) in subsets and name != "ddim":
            less = spread - subsets["ddim", steps]
            row["kid_minus_ddim"] = [float(less.mean()), float(less.std())]
        (rows if steps else floors).append(row)
        print(*line(row), flush=True)
        return found

    found = add("the pictures themselves", themselves)
    nearest_has = {
        label.__name__: nearest(found, list(map(label, captions)), target, [label(one.caption) for one in real])
        for label in (vendor, background)
    }
    parts = [themselves[first : first + given.batch] for first in range(0, len(themselves), given.batch)]
    add("the autoencoder's", [image for part in parts for image in model.decode(model.encode(part).to_float()[0])])
    shown = {"themselves": themselves}
    names = [name for name in reversed(SAMPLERS) if name != "ddim_euler"]  # It generates as ddim does.
    for steps, name in product(given.steps, names):
        images, lost = drawn(model, name, captions, given, steps)
        calls = (
            len(SAMPLERS[name].evaluated_steps(model.model.schedule(sampling(steps=steps)), 0, steps))
            + SAMPLERS[name].y_lead
        )
        add(name, images, steps, calls=calls, left_the_lattice=lost)
        if steps == min(given.steps):
            shown[name] = images
    about = {"captions": len(captions), "references": len(real), "dimensions": reference.shape[1]}
    return about | {"nearest_has": nearest_has, "floors": floors, "rows": rows}, shown


HEAD = ("pictures", "steps", "left", "background", "FID", "KID", "KID of subsets", "std", "- ddim", "std")


def line(row: dict[str, Any]) -> list[object]:
    """A row as it is printed."""
    pairs = [f"{value:.4f}" for what in ("kid_subsets", "kid_minus_ddim") for value in row.get(what, ())]
    about = [row["pictures"], row["steps"] or "", row.get("left_the_lattice", ""), f"{row['background'][0]:.0%}"]
    return [*about, f"{row['fid']:.2f}", f"{row['kid']:.4f}", *pairs, *[""] * (4 - len(pairs))]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--pairs", type=int, default=96, help="pairs of drawings, two captions each")
    arguments.add_argument("--steps", type=numbers, default=[10, 20, 50, 100])
    arguments.add_argument("--guidance", type=float, default=3.0)
    arguments.add_argument("--subsets", type=int, default=200, help="of KID")
    arguments.add_argument("--size", type=int, default=96, help="pictures of a subset")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    found, shown = measure(EDICT.from_pretrained(), given)
    sheet(shown, 8).quantize(256).save(SHEET, optimize=True)
    print(table(HEAD, [line(row) for row in found["floors"] + found["rows"]]))
    print(f"\nwritten to {SHEET} and {save('samplers/generation', given, **found)}")


if __name__ == "__main__":
    main()
