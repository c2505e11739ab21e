"""The paper's Table 1: what comes back from inversion and regeneration under the same caption.

Wallace, Gokul, Naik: EDICT: Exact Diffusion Inversion via Coupled Transformations, CVPR 2023, 2211.12446. Mean squared
errors are of 8-bit pictures, on [-1, 1] pixels.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from edict import EDICT, Pair
from edict.integration import solve_floats
from edict.samplers import parameters, sampling
from jobs.evaluation.truth import Captioned, squared_error
from pipeline.progress import Progress

PROMPTS = {"unconditional": 0.0, "conditional": 7.0}  # guidance: 0 is the empty prompt alone, 7 is the paper's
PAPER = {  # on COCO, with LDM: other pictures and another model, so that only the pattern compares
    ("EDICT", "unconditional"): {50: 0.015, 100: 0.015, 200: 0.015},
    ("EDICT", "conditional"): {50: 0.015, 100: 0.015, 200: 0.015},
    ("DDIM", "unconditional"): {50: 0.030, 100: 0.027, 200: 0.023},
    ("DDIM", "conditional"): {50: 0.420, 100: 0.471, 200: 0.497},
}
Method = Callable[[EDICT, Pair, Sequence[Captioned]], dict[str, Any]]
HEAD = (
    "method",
    "prompt",
    "steps",
    "p",
    "mse",
    "minus autoencoder",
    "integers differing",
    "left the lattice",
    "s/image",
    "paper (COCO, LDM)",
)


def measure(model: EDICT, shown: Sequence[Captioned], *, steps: Sequence[int], batch: int) -> list[dict[str, Any]]:
    """Return the rows of the table: the autoencoder, and each method under both prompts at each number of steps."""
    rows = autoencoder(model, shown)
    clean = model.encode([picture.image for picture in shown])
    methods: dict[str, Method] = {
        "EDICT": by_edict,
        "DDIM": partial(by_ddim, sampler="ddim"),
        "DDIM Euler": partial(by_ddim, sampler="ddim_euler"),
    }
    with Progress("table1", len(methods) * len(PROMPTS) * sum(steps) * len(shown), "steps") as progress:
        for method, come_back in methods.items():
            for prompt, guidance_scale in PROMPTS.items():
                for count in steps:
                    start = model.prepare(
                        clean, sampling(steps=count, strength=1.0, guidance_scale=guidance_scale), batch
                    )
                    about = {"method": method, "prompt": prompt, "guidance_scale": guidance_scale, "steps": count}
                    published = PAPER.get((method, prompt), {})
                    paper = {"paper": published[count]} if count in published else {}
                    rows.append(about | come_back(model, start, shown) | paper)
                    progress.advance(count * len(shown), " ".join(filter(None, line(rows[-1]))))
    return rows


def autoencoder(model: EDICT, shown: Sequence[Captioned]) -> list[dict[str, Any]]:
    """The floor of every other row; rounded to the lattice, as EDICT starts, and (at 40 bits) as good as not."""
    images = [picture.image for picture in shown]
    starts = {"autoencoder": model.encode(images), "autoencoder, not rounded": model.encode(images, bits=40)}
    errors = {name: squared_error(model.decode(start.to_float()[0]), images).mean() for name, start in starts.items()}
    base = errors["autoencoder"]
    return [
        {"method": name, "n": len(shown), "mse": error, "minus_autoencoder": error - base, "paper": 0.015}
        for name, error in errors.items()
    ]


def by_edict(model: EDICT, start: Pair, shown: Sequence[Captioned]) -> dict[str, Any]:
    """EDICT there and back. Samples that leave the lattice are counted, and no part of the errors."""
    captions = [picture.caption for picture in shown]
    began = time.perf_counter()
    noise, faults = model.integrate(start, captions, 0)
    again, more = model.integrate(noise, captions, start.position)
    seconds = time.perf_counter() - began
    lost = faults | more
    row = {
        "n": len(shown),
        "p": float(parameters(start.sampling)["p"]),
        "left_the_lattice": len(lost),
        "seconds_per_image": seconds / len(shown),
    }
    sound = [i for i in range(len(shown)) if i not in lost]
    if not sound:
        return row
    images = [shown[i].image for i in sound]
    base = squared_error(model.decode(start.to_float()[0][sound]), images)
    error = squared_error(model.decode(again.to_float()[0][sound]), images)
    return row | {
        "mse": error.mean(),
        "minus_autoencoder": (error - base).mean(),
        "integers_differing": sum(
            int((a[sound] != b[sound]).sum()) for a, b in ((again.x, start.x), (again.y, start.y))
        ),
    }


@torch.inference_mode()
def by_ddim(model: EDICT, start: Pair, shown: Sequence[Captioned], *, sampler: str) -> dict[str, Any]:
    """Invert by DDIM and regenerate along one schedule. The inversion has the convention of `sampler`."""
    images = [picture.image for picture in shown]
    latents = start.to_float()[0]
    depth = start.schedule.num_steps
    parts = []
    began = time.perf_counter()
    for first in range(0, len(shown), start.batch_size):
        rows = slice(first, first + start.batch_size)
        predict = model.direct.predictor([picture.caption for picture in shown[rows]], start.guidance_scale)
        noise = solve_floats(latents[rows], sampler, start.schedule, predict, depth, 0)
        parts.append(solve_floats(noise, sampler, start.schedule, predict, 0, depth))
    seconds = time.perf_counter() - began
    base = squared_error(model.decode(latents), images)
    error = squared_error(model.decode(torch.cat(parts)), images)
    return {
        "n": len(shown),
        "mse": error.mean(),
        "minus_autoencoder": (error - base).mean(),
        "seconds_per_image": seconds / len(shown),
    }


def line(row: dict[str, Any]) -> list[str]:
    """A row as it is printed."""

    def cell(name: str, form: str) -> str:
        return format(row[name], form) if name in row else ""

    mse = cell("mse", ".6f") or f"all {row['n']} left the lattice"
    lost = f"{row['left_the_lattice']} of {row['n']}" if "left_the_lattice" in row else ""
    return [
        row["method"],
        row.get("prompt", ""),
        cell("steps", "d"),
        cell("p", ".4g"),
        mse,
        cell("minus_autoencoder", ".6f"),
        cell("integers_differing", "d"),
        lost,
        cell("seconds_per_image", ".3f"),
        cell("paper", ".3f"),
    ]
