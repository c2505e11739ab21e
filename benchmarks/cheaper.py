"""Effect of cheaper settings on edit quality: dtype and compilation of the network, and less guidance.

`python -m benchmarks.cheaper` takes half an hour on two cores. EDICT makes the test edits of `edict eval edits`, none
of which chose a setting. The seconds are CPU seconds of an inversion and an edit, with all processes at work at once.
A network is compiled before its measurement begins.
"""

import time
from argparse import Namespace
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from benchmarks.harness import dtype_name, program, run, save, show
from edict import EDICT
from edict.samplers import SAMPLERS, sampling
from jobs.evaluation.bootstrap import format_interval, mean_interval
from jobs.evaluation.edits import process_pool
from jobs.evaluation.truth import ReferenceEdit, outside_error, reference_edits, split, squared_error
from jobs.preview.network_calls import network_calls
from pipeline.progress import Progress

NOISE_LEVELS = (1.0, 5.42)  # the best of a few in benchmarks.sweep


class EditSettings(NamedTuple):
    """The settings of an edit. `guidance_interval` applies to both directions."""

    dtype: torch.dtype = torch.float32
    compile: bool = False
    inverted_at: float = 1.0
    edited_at: float = 1.0
    strength: float = 1.0
    guidance_interval: tuple[float, float] | None = None


class EditedBatch(NamedTuple):
    """The images of a batch of edits, their failures, and the CPU seconds of the process."""

    images: list[Image.Image]
    failed: list[bool]
    seconds: float


HALF = torch.bfloat16
PLAIN, GUIDED = EditSettings(), EditSettings(inverted_at=3.0, edited_at=3.0, strength=0.8)
COMPARED = (  # each with the settings that its error is compared with
    (PLAIN, PLAIN),
    (PLAIN._replace(dtype=HALF), PLAIN),
    (PLAIN._replace(dtype=HALF, compile=True), PLAIN._replace(dtype=HALF)),
    (PLAIN._replace(edited_at=1.5), PLAIN),
    (PLAIN._replace(edited_at=2.0), PLAIN),
    (PLAIN._replace(dtype=HALF, edited_at=1.5), PLAIN._replace(edited_at=1.5)),
    (GUIDED, PLAIN),
    (GUIDED._replace(dtype=HALF), GUIDED),
    (GUIDED._replace(guidance_interval=NOISE_LEVELS), GUIDED),
)
COLUMNS: dict[str, Any] = {
    "network": lambda row: row["dtype"] + (", compiled" if row["compile"] else ""),
    "inverted at guidance": "inverted_at:g",
    "edited at": "edited_at:g",
    "strength": "strength:g",
    "guidance within": lambda row: row["guidance_interval"] or "all noise levels",
    "evaluations": "evaluations",
    "s per edit": "seconds:.3f",
    "to the truth [95%]": lambda row: format_interval(row["truth"]),
    "difference [95%]": lambda row: format_interval(row["difference"]),
    "outside [95%]": lambda row: format_interval(row["outside"]),
    "failed": "failed",
}


@cache
def _model(dtype: torch.dtype, compile: bool) -> EDICT:
    """Return the model of this process."""
    logging.disable_progress_bar()
    return EDICT.from_pretrained(dtype=dtype, compile=compile)


def edit(settings: EditSettings, edits: Sequence[ReferenceEdit], steps: int, batch: int) -> EditedBatch:
    """Make at most `batch` edits."""
    model = _model(settings.dtype, settings.compile)
    sources, targets = [edit.source.caption for edit in edits], [edit.target.caption for edit in edits]
    sampler = sampling(
        steps=steps,
        strength=settings.strength,
        guidance_scale=settings.inverted_at,
        guidance_interval=settings.guidance_interval,
    )
    start = model.prepare(model.encode([edit.source.image for edit in edits]), sampler, batch)
    if settings.compile:
        model.integrate(start, sources, start.position - 1)
    began = time.process_time()
    noise, faults = model.integrate(start, sources, 0)
    clean, more = model.integrate(noise, targets, start.position, guidance_scale=settings.edited_at)
    seconds = time.process_time() - began
    return EditedBatch(
        model.decode(clean.to_float()[0]), [i in faults or i in more for i in range(len(edits))], seconds
    )


def evaluations(model: EDICT, settings: EditSettings, steps: int) -> int:
    """Count the network evaluations of an inversion and an edit."""
    schedule = model.backend.schedule(sampling(steps=steps, strength=settings.strength))
    outside = schedule.timesteps_outside(settings.guidance_interval)
    timesteps = partial(SAMPLERS["edict"].evaluated_timesteps, schedule)
    inversion = network_calls(timesteps(schedule.num_steps, 0), outside, settings.inverted_at)
    return inversion + network_calls(timesteps(0, schedule.num_steps), outside, settings.edited_at)


@program(batch=16, processes=2, tune=6, steps=25, count=0)
def cheaper(given: Namespace) -> None:
    torch.set_num_threads(1)
    edits = split(reference_edits(), given.tune)[1][: given.count or None]
    parts = [edits[first : first + given.batch] for first in range(0, len(edits), given.batch)]
    made: dict[EditSettings, list[EditedBatch]] = {settings: [] for settings, _ in COMPARED}
    with Progress("edits", len(COMPARED) * len(edits), "images") as progress, process_pool(given.processes) as pool:
        tasks = {
            settings: [pool.submit(edit, settings, part, given.steps, given.batch) for part in parts]
            for settings in made
        }
        for settings, futures in tasks.items():
            for future in futures:
                made[settings].append(future.result())
                progress.advance(len(made[settings][-1].images))
    targets, drawings = [edit.target.image for edit in edits], np.array([edit.drawings for edit in edits])
    errors, rows = dict[EditSettings, np.ndarray](), []
    for settings, other in COMPARED:
        images = [image for part in made[settings] for image in part.images]
        failed = np.array([one for part in made[settings] for one in part.failed])
        errors[settings] = np.where(failed, np.nan, squared_error(images, targets))
        rows.append(
            {
                **settings._asdict(),
                "dtype": dtype_name(settings.dtype),
                "other": [*made].index(other),
                "evaluations": evaluations(_model(torch.float32, False), settings, given.steps),
                "seconds": sum(part.seconds for part in made[settings]) / (len(parts) * given.batch),
                "truth": mean_interval(errors[settings], drawings),
                "difference": mean_interval(errors[settings] - errors[other], drawings),
                "outside": mean_interval(np.where(failed, np.nan, outside_error(images, edits)), drawings),
                "failed": int(failed.sum()),
            }
        )
    show(rows, COLUMNS)
    save("cheaper", given, edits=len(edits), rows=rows)


if __name__ == "__main__":
    run(__doc__, cheaper)
