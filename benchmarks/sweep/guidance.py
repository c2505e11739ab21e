"""Effect of guidance in an interval of noise levels on EDICT's edits (Kynkäänniemi et al., 2404.07724)."""

from argparse import Namespace
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from benchmarks.sweep.edits import errors
from edict import EDICT
from edict.samplers import SAMPLERS, sampling
from jobs.evaluation.bootstrap import format_interval, mean_interval
from jobs.evaluation.truth import ReferenceEdit
from jobs.preview.network_calls import network_calls
from schemas.sampling import count_executed_steps

STEPS, STRENGTHS = 20, (0.8, 1.0)
INTERVALS = (None, [0.28, 5.42], [0.28, 2.9], [0.28, 1.5], [1.0, 5.42])
COLUMNS: dict[str, Any] = {
    "guidance": "guidance_scale:g",
    "noise levels": lambda row: row["interval"] or "all",
    "strength": "strength:g",
    "to the truth [95%]": lambda row: format_interval(row["truth"]),
    "minus that of all levels [95%]": lambda row: format_interval(row["less"]),
    "outside [95%]": lambda row: format_interval(row["outside"]),
    "drift": "drift:.4f",
    "evaluations of the inversion": lambda row: row["evaluations"][0],
    "of the edit": lambda row: row["evaluations"][1],
}


def settings() -> list[dict[str, Any]]:
    """Return the guidance scales of both directions."""
    return [{"guidance_scale": 3.0}]


def measure(
    model: EDICT, edits: Sequence[ReferenceEdit], one: dict[str, Any], given: Namespace
) -> list[dict[str, Any]]:
    """Measure edits whose directions both have guidance only in an interval."""
    sources, targets = [edit.source.caption for edit in edits], [edit.target.caption for edit in edits]
    drawings = np.array([edit.drawings for edit in edits])
    clean = model.encode([edit.source.image for edit in edits])
    everywhere, rows = dict[float, np.ndarray](), list[dict[str, Any]]()
    for limits, strength in product(INTERVALS, STRENGTHS):
        settings = sampling(steps=STEPS, strength=strength, **one, guidance_interval=limits)
        start = model.prepare(clean, settings, given.batch)
        noise, faults = model.integrate(start, sources, 0)
        edited, more = model.integrate(noise, targets, start.position)
        to_truth, outside = errors(model, edited, edits, faults | more)
        num_steps, sampler = count_executed_steps(STEPS, strength), SAMPLERS[start.sampling.name]
        timesteps = [sampler.evaluated_timesteps(start.schedule, *ends) for ends in ((num_steps, 0), (0, num_steps))]
        unguided = start.schedule.timesteps_outside(limits)
        rows.append(
            {
                **one,
                "interval": limits,
                "strength": strength,
                "truth": mean_interval(to_truth, drawings),
                "less": mean_interval(to_truth - everywhere.setdefault(strength, to_truth), drawings),
                "outside": mean_interval(outside, drawings),
                "drift": float(noise.drift().mean()),
                "evaluations": [network_calls(called, unguided, one["guidance_scale"]) for called in timesteps],
            }
        )
    return rows
