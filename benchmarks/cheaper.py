"""Whether edits bear what makes them cheaper: the network's type and compilation, guidance in an interval or in one
direction alone.

`python -m benchmarks.cheaper`, half an hour of two cores. By EDICT, on the edits that `edict eval edits` tests on, none
of which chose a setting. The time is the processes' own, of inversion and edit, with all processes at work at once; a
compiled network is compiled before.
"""

import argparse
import time
from collections.abc import Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from benchmarks.oracle import named
from benchmarks.record import save
from edict import EDICT
from edict.samplers import SAMPLERS, sampling
from jobs import preview
from jobs.evaluation.edits import interval, mean_interval, pool_of
from jobs.evaluation.record import table
from jobs.evaluation.truth import ReferenceEdit, outside_error, split, squared_error, truth
from pipeline.progress import Progress

LIMITS = (1.0, 5.42)  # noise levels, those that benchmarks.sweep found best of a few


class Way(NamedTuple):
    """How an edit is made. `guidance_interval` is of both directions."""

    dtype: torch.dtype = torch.float32
    compile: bool = False
    inverted_at: float = 1.0
    edited_at: float = 1.0
    strength: float = 1.0
    guidance_interval: tuple[float, float] | None = None


class Made(NamedTuple):
    """A batch of edits: the pictures, which failed, and the process's seconds."""

    pictures: list[Image.Image]
    failed: list[bool]
    seconds: float


HALF = torch.bfloat16
ALONE, BOTH = Way(), Way(inverted_at=3.0, edited_at=3.0, strength=0.8)
COMPARED = (  # with the one it is cheaper, or nearer to the truth, than
    (ALONE, ALONE),
    (ALONE._replace(dtype=HALF), ALONE),
    (ALONE._replace(dtype=HALF, compile=True), ALONE._replace(dtype=HALF)),
    (ALONE._replace(edited_at=1.5), ALONE),
    (ALONE._replace(edited_at=2.0), ALONE),
    (ALONE._replace(dtype=HALF, edited_at=1.5), ALONE._replace(edited_at=1.5)),
    (BOTH, ALONE),
    (BOTH._replace(dtype=HALF), BOTH),
    (BOTH._replace(guidance_interval=LIMITS), BOTH),
)
HEAD = (
    "network",
    "inverted at guidance",
    "edited at",
    "strength",
    "guidance within",
    "evaluations",
    "s an edit",
    "to the truth [95 %]",
    "less the other's [95 %]",
    "outside [95 %]",
    "failed",
)


@cache
def _model(dtype: torch.dtype, compile: bool) -> EDICT:
    """The model of a process."""
    logging.disable_progress_bar()
    return EDICT.from_pretrained(dtype=dtype, compile=compile)


def edit(way: Way, edits: Sequence[ReferenceEdit], steps: int, batch: int) -> Made:
    """At most `batch` edits, in a process."""
    model = _model(way.dtype, way.compile)
    sources, targets = [edit.source.caption for edit in edits], [edit.target.caption for edit in edits]
    start = model.prepare(
        model.encode([edit.source.image for edit in edits]),
        sampling(
            steps=steps, strength=way.strength, guidance_scale=way.inverted_at, guidance_interval=way.guidance_interval
        ),
        batch,
    )
    if way.compile:  # a step of it
        model.integrate(start, sources, start.position - 1)
    began = time.process_time()
    noise, lost = model.integrate(start, sources, 0)
    clean, met = model.integrate(noise, targets, start.position, guidance_scale=way.edited_at)
    seconds = time.process_time() - began
    return Made(model.decode(clean.to_float()[0]), [i in lost or i in met for i in range(len(edits))], seconds)


def evaluations(model: EDICT, way: Way, steps: int) -> int:
    """Of the network, by an inversion and an edit."""
    schedule = model.model.schedule(sampling(steps=steps, strength=way.strength))
    outside, depth = schedule.outside(way.guidance_interval), schedule.num_steps
    timesteps_of = partial(SAMPLERS["edict"].evaluated_timesteps, schedule)
    return preview.evaluations(timesteps_of(depth, 0), outside, way.inverted_at) + preview.evaluations(
        timesteps_of(0, depth), outside, way.edited_at
    )


def told(way: Way) -> list[str]:
    """A way as it is printed."""
    return [
        named(way.dtype) + (", compiled" if way.compile else ""),
        *(f"{value:g}" for value in (way.inverted_at, way.edited_at, way.strength)),
        "everywhere" if way.guidance_interval is None else "{:g} to {:g}".format(*way.guidance_interval),
    ]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    arguments.add_argument("--batch", type=int, default=16, help="pictures a network call")
    arguments.add_argument("--processes", type=int, default=2, help="of one thread each")
    arguments.add_argument("--tune", type=int, default=6, help="as with `edict eval edits`")
    arguments.add_argument("--steps", type=int, default=25)
    arguments.add_argument("--count", type=int, help="the first edits alone")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    edits = split(truth(), given.tune)[1][: given.count]
    parts = [edits[first : first + given.batch] for first in range(0, len(edits), given.batch)]
    made = dict[Way, list[Made]]()
    with (
        Progress("edits", len(COMPARED) * len(edits), "pictures") as progress,
        pool_of(given.processes) as pool,
    ):
        running = {
            way: [pool.submit(edit, way, part, given.steps, given.batch) for part in parts] for way, _ in COMPARED
        }
        for way, futures in running.items():
            made[way] = []
            for future in futures:
                made[way].append(future.result())
                progress.advance(len(made[way][-1].pictures))
    model, ways = _model(torch.float32, False), [way for way, _ in COMPARED]
    targets, drawings = [edit.target.image for edit in edits], np.array([edit.drawings for edit in edits])
    errors, lines, rows = dict[Way, np.ndarray](), [], []
    for way, other in COMPARED:
        pictures = [picture for part in made[way] for picture in part.pictures]
        failed = np.array([one for part in made[way] for one in part.failed])
        errors[way] = np.where(failed, np.nan, squared_error(pictures, targets))
        row = {
            **way._asdict(),
            "dtype": named(way.dtype),
            "other": ways.index(other),
            "evaluations": evaluations(model, way, given.steps),
            "seconds": sum(part.seconds for part in made[way]) / (len(parts) * given.batch),
            "truth": mean_interval(errors[way], drawings),
            "difference": mean_interval(errors[way] - errors[other], drawings),
            "outside": mean_interval(np.where(failed, np.nan, outside_error(pictures, edits)), drawings),
            "failed": int(failed.sum()),
        }
        rows.append(row)
        figures = [interval(row[name]) for name in ("truth", "difference", "outside")]
        lines.append([*told(way), row["evaluations"], f"{row['seconds']:.3f}", *figures, row["failed"]])
    print(table(HEAD, lines))
    print(f"\n{len(edits)} edits; written to {save('cheaper', given, edits=len(edits), rows=rows)}")


if __name__ == "__main__":
    main()
