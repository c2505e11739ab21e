"""The paper's Table 1: the error of inversion and regeneration under the same caption.

Wallace, Gokul, Naik: EDICT: Exact Diffusion Inversion via Coupled Transformations, CVPR 2023, 2211.12446. Mean squared
errors are between 8-bit images, with pixels on [-1, 1].
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from edict import EDICT, Pair
from edict.samplers import parameters, sampling
from jobs.evaluation import methods
from jobs.evaluation.truth import CaptionedImage, squared_error
from pipeline.progress import Progress

PROMPTS = {"unconditional": 0.0, "conditional": 7.0}
"""The guidance scales. Scale 0 only uses the empty prompt; 7 is the scale of the paper."""
PAPER = {
    ("EDICT", "unconditional"): {50: 0.015, 100: 0.015, 200: 0.015},
    ("EDICT", "conditional"): {50: 0.015, 100: 0.015, 200: 0.015},
    ("DDIM", "unconditional"): {50: 0.030, 100: 0.027, 200: 0.023},
    ("DDIM", "conditional"): {50: 0.420, 100: 0.471, 200: 0.497},
}
"""The paper's errors, on COCO with LDM. Images and model are others, so only the pattern is comparable."""
RoundTrip = Callable[[EDICT, Pair, Sequence[CaptionedImage]], dict[str, Any]]
"""(model, prepared clean pair, captioned images) -> the measured fields of a row."""
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


def measure(
    model: EDICT, samples: Sequence[CaptionedImage], *, steps: Sequence[int], batch: int
) -> list[dict[str, Any]]:
    """Return the rows of the table: the autoencoder, and each method under both prompts at each number of steps."""
    rows = autoencoder(model, samples)
    clean = model.encode([sample.image for sample in samples])
    round_trips: dict[str, RoundTrip] = {
        "EDICT": by_edict,
        "DDIM": partial(by_ddim, sampler="ddim"),
        "DDIM Euler": partial(by_ddim, sampler="ddim_euler"),
    }
    with Progress("table1", len(round_trips) * len(PROMPTS) * sum(steps) * len(samples), "steps") as progress:
        for method, round_trip in round_trips.items():
            for prompt, guidance_scale in PROMPTS.items():
                for count in steps:
                    settings = sampling(steps=count, strength=1.0, guidance_scale=guidance_scale)
                    start = model.prepare(clean, settings, batch)
                    about = {"method": method, "prompt": prompt, "guidance_scale": guidance_scale, "steps": count}
                    published = PAPER.get((method, prompt), {})
                    paper = {"paper": published[count]} if count in published else {}
                    rows.append(about | round_trip(model, start, samples) | paper)
                    progress.advance(count * len(samples), " ".join(filter(None, line(rows[-1]))))
    return rows


def autoencoder(model: EDICT, samples: Sequence[CaptionedImage]) -> list[dict[str, Any]]:
    """Return the rows of the autoencoder, whose error is the least that a method can have.

    The first row has latents that are rounded to the lattice, as EDICT's are. In the second, 40 bits make the rounding
    negligible.
    """
    images = [sample.image for sample in samples]
    starts = {"autoencoder": model.encode(images), "autoencoder, not rounded": model.encode(images, bits=40)}
    errors = {name: squared_error(model.decode(start.to_float()[0]), images).mean() for name, start in starts.items()}
    base = errors["autoencoder"]
    return [
        {"method": name, "n": len(samples), "mse": error, "minus_autoencoder": error - base, "paper": 0.015}
        for name, error in errors.items()
    ]


def by_edict(model: EDICT, start: Pair, samples: Sequence[CaptionedImage]) -> dict[str, Any]:
    """Invert and regenerate by EDICT. Samples that leave the lattice are counted, and are not part of the errors."""
    captions = [sample.caption for sample in samples]
    began = time.perf_counter()
    noise, faults = model.integrate(start, captions, 0)
    again, more = model.integrate(noise, captions, start.position)
    seconds = time.perf_counter() - began
    failed = faults | more
    row = {
        "n": len(samples),
        "p": float(parameters(start.sampling)["p"]),
        "left_the_lattice": len(failed),
        "seconds_per_image": seconds / len(samples),
    }
    valid = [i for i in range(len(samples)) if i not in failed]
    if not valid:
        return row
    errors = _errors(model, start.to_float()[0][valid], again.to_float()[0][valid], [samples[i] for i in valid])
    differing = sum(int((a[valid] != b[valid]).sum()) for a, b in ((again.x, start.x), (again.y, start.y)))
    return row | errors | {"integers_differing": differing}


def by_ddim(model: EDICT, start: Pair, samples: Sequence[CaptionedImage], *, sampler: str) -> dict[str, Any]:
    """Invert by DDIM and regenerate along the same schedule. The inversion has the convention of `sampler`."""
    parts = []
    began = time.perf_counter()
    for first in range(0, len(samples), start.batch_size):
        rows = slice(first, first + start.batch_size)
        captions = [sample.caption for sample in samples[rows]]
        latents, _ = methods.by_ddim(model, start[rows], captions, captions, start.guidance_scale, sampler=sampler)
        parts.append(latents)
    seconds = time.perf_counter() - began
    errors = _errors(model, start.to_float()[0], torch.cat(parts), samples)
    return {"n": len(samples), **errors, "seconds_per_image": seconds / len(samples)}


def _errors(
    model: EDICT, clean: torch.Tensor, again: torch.Tensor, samples: Sequence[CaptionedImage]
) -> dict[str, Any]:
    """Return the mean error of regenerated latents [N, ...], and how much it exceeds that of the clean latents."""
    images = [sample.image for sample in samples]
    base, error = (squared_error(model.decode(latents), images) for latents in (clean, again))
    return {"mse": error.mean(), "minus_autoencoder": (error - base).mean()}


def line(row: dict[str, Any]) -> list[str]:
    """Return the cells of a row, in the order of HEAD."""

    def cell(name: str, form: str) -> str:
        return format(row[name], form) if name in row else ""

    mse = cell("mse", ".6f") or f"all {row['n']} left the lattice"
    left = f"{row['left_the_lattice']} of {row['n']}" if "left_the_lattice" in row else ""
    return [
        row["method"],
        row.get("prompt", ""),
        cell("steps", "d"),
        cell("p", ".4g"),
        mse,
        cell("minus_autoencoder", ".6f"),
        cell("integers_differing", "d"),
        left,
        cell("seconds_per_image", ".3f"),
        cell("paper", ".3f"),
    ]
