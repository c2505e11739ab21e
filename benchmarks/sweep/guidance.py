"""What limiting guidance to an interval of noise levels makes of EDICT's edits (Kynkaanniemi et al., 2404.07724)."""

from argparse import Namespace
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from edict import EDICT
from edict.samplers import SAMPLERS, sampling
from jobs.evaluation.edits import interval, mean_interval
from jobs.evaluation.truth import ReferenceEdit, outside_error, squared_error
from jobs.preview import evaluations
from schemas.sampling import executed

STEPS, STRENGTHS = 20, (0.8, 1.0)
INTERVALS = (None, [0.28, 5.42], [0.28, 2.9], [0.28, 1.5], [1.0, 5.42])
HEAD = (
    "guidance",
    "noise levels",
    "strength",
    "to the truth [95 %]",
    "less everywhere's [95 %]",
    "outside [95 %]",
    "drift",
    "evaluations of the inversion",
    "of the edit",
)


def tries() -> list[dict[str, Any]]:
    """By guidance, of both directions."""
    return [{"guidance_scale": 3.0}]


def measure(
    model: EDICT, edits: Sequence[ReferenceEdit], one: dict[str, Any], given: Namespace
) -> list[dict[str, Any]]:
    """Edits within each interval, which both directions have; `less` is the paired difference to those without any."""
    sources, targets = [edit.source.caption for edit in edits], [edit.target.caption for edit in edits]
    truth = [edit.target.image for edit in edits]
    drawings = np.array([edit.drawings for edit in edits])
    clean = model.encode([edit.source.image for edit in edits])
    everywhere, rows = dict[float, np.ndarray](), list[dict[str, Any]]()
    for limits, strength in product(INTERVALS, STRENGTHS):
        start = model.prepare(
            clean,
            sampling(steps=STEPS, strength=strength, guidance_scale=one["guidance_scale"], guidance_interval=limits),
            given.batch,
        )
        noise, lost = model.integrate(start, sources, 0)
        edited, met = model.integrate(noise, targets, start.position)
        pictures = model.decode(edited.to_float()[0])
        failed = np.isin(np.arange(len(edits)), [*lost, *met])
        errors = np.where(failed, np.nan, squared_error(pictures, truth))
        depth, sampler = executed(STEPS, strength), SAMPLERS[start.sampling.name]
        outside = start.schedule.outside(limits)
        rows.append(
            {
                **one,
                "interval": limits,
                "strength": strength,
                "truth": mean_interval(errors, drawings),
                "less": mean_interval(errors - everywhere.setdefault(strength, errors), drawings),
                "outside": mean_interval(np.where(failed, np.nan, outside_error(pictures, edits)), drawings),
                "drift": float(noise.drift().mean()),
                "evaluations": [
                    evaluations(sampler.evaluated_timesteps(start.schedule, *ends), outside, one["guidance_scale"])
                    for ends in ((depth, 0), (0, depth))
                ],
            }
        )
    return rows


def line(row: dict[str, Any]) -> list[object]:
    """A row as it is printed."""
    limits = "all" if row["interval"] is None else "{:g} to {:g}".format(*row["interval"])
    figures = [interval(row[name]) for name in ("truth", "less", "outside")]
    return [
        f"{row['guidance_scale']:g}",
        limits,
        f"{row['strength']:g}",
        *figures,
        f"{row['drift']:.4f}",
        *row["evaluations"],
    ]
