"""Effect of strength, guidance, steps and p on EDICT's edits: the distance to the truth, and the evaluations."""

from argparse import Namespace
from collections.abc import Collection, Sequence
from itertools import product
from typing import Any

import numpy as np

from edict import EDICT, Pair
from edict.samplers import SAMPLERS, sampling
from jobs.evaluation.bootstrap import format_interval, mean_interval
from jobs.evaluation.truth import ReferenceEdit, outside_error, squared_error
from schemas.sampling import count_executed_steps

STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
P = SAMPLERS["edict"].parameters["p"]
MIXING = (0.90, 0.96, 0.98, 1.0)  # other values of p
STEPS = 20  # steps of the schedule in the whole grid
SETTING = ("steps", "p", "inverted_at", "guidance_scale", "strength")
COMPARED = (  # the first setting minus the second
    ((20, P, 1.0, 1.0, 1.0), (20, P, 3.0, 3.0, 1.0)),
    ((20, P, 1.0, 1.5, 1.0), (20, P, 1.0, 1.0, 1.0)),
    ((20, P, 1.0, 2.0, 0.8), (20, P, 3.0, 3.0, 0.8)),
    ((50, P, 1.0, 1.0, 1.0), (50, P, 3.0, 3.0, 1.0)),
    ((50, P, 1.0, 1.5, 1.0), (50, P, 1.0, 1.0, 1.0)),
    ((50, P, 1.0, 1.5, 1.0), (50, P, 3.0, 3.0, 1.0)),
    ((50, P, 1.0, 1.5, 1.0), (20, P, 1.0, 1.5, 1.0)),
    ((50, P, 1.0, 1.0, 1.0), (20, P, 1.0, 1.0, 1.0)),
    ((20, P, 1.0, 1.0, 1.0), (10, P, 1.0, 1.0, 1.0)),
    *(((50, p, 3.0, 3.0, 0.8), (50, P, 3.0, 3.0, 0.8)) for p in MIXING),
    *(((50, p, 1.0, 1.0, 1.0), (50, P, 1.0, 1.0, 1.0)) for p in MIXING),
    *(((20, p, 3.0, 3.0, 0.8), (20, P, 3.0, 3.0, 0.8)) for p in MIXING),
)
COLUMNS: dict[str, Any] = {
    "steps": "steps",
    "p": "p:g",
    "inverted at guidance": "inverted_at:g",
    "edited at": "guidance_scale:g",
    "strength": "strength:g",
    "to the truth [95%]": lambda row: format_interval(row["truth"]),
    "outside [95%]": lambda row: format_interval(row["outside"]),
    "failed": "failed",
    "evaluations of the inversion": lambda row: row["evaluations"][0],
    "of the edit": lambda row: row["evaluations"][1],
}


def settings() -> list[dict[str, Any]]:
    """Return the steps, p and guidance scale of each inversion."""
    grid = [(STEPS, P, guidance) for guidance in (1.0, 2.0, 3.0, 5.0, 7.0)]
    mixing = [(steps, p, guidance) for steps, guidance in ((20, 1.0), (20, 3.0), (50, 1.0), (50, 3.0)) for p in MIXING]
    lines = [(10, P, 1.0), (10, P, 3.0), (50, P, 1.0), (50, P, 3.0)]
    return [dict(zip(("steps", "p", "inverted_at"), one, strict=True)) for one in (*grid, *mixing, *lines)]


def branches(steps: int, p: float, inverted_at: float) -> list[tuple[float, float]]:
    """Return the strengths and guidance scales of the edits from one inversion."""
    if p != P:
        return [(1.0 if inverted_at == 1 else 0.8, inverted_at)]
    strengths = STRENGTHS if steps == STEPS else (0.6, 0.8, 0.9, 1.0)
    found = [(strength, inverted_at) for strength in strengths]
    if inverted_at == 1 and steps == STEPS:
        found += product((0.6, 0.8, 1.0), (1.5, 2.0, 3.0, 5.0))
    elif inverted_at == 1 and steps > STEPS:
        found += product((0.8, 1.0), (1.5, 2.0))
    return found


def errors(
    model: EDICT, edited: Pair, edits: Sequence[ReferenceEdit], faults: Collection[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors of edits to the truth and outside, float64 [N] each, NaN where an edit failed."""
    images, failed = model.decode(edited.to_float()[0]), np.isin(np.arange(len(edits)), [*faults])
    to_truth, outside = squared_error(images, [edit.target.image for edit in edits]), outside_error(images, edits)
    return np.where(failed, np.nan, to_truth), np.where(failed, np.nan, outside)


def measure(
    model: EDICT, edits: Sequence[ReferenceEdit], one: dict[str, Any], given: Namespace
) -> list[dict[str, Any]]:
    """Measure the edits that branch off one inversion at full strength. Intervals resample the drawings.

    An edit of strength s branches off after the first s * steps of the inversion.
    """
    steps, inverted_at = one["steps"], one["inverted_at"]
    sources, targets = [edit.source.caption for edit in edits], [edit.target.caption for edit in edits]
    pair = model.encode([edit.source.image for edit in edits])
    pair = model.prepare(pair, sampling(steps=steps, strength=1.0, guidance_scale=inverted_at, p=one["p"]), given.batch)
    drawings = np.array([edit.drawings for edit in edits])
    rows, failed = [], set[int]()
    for strength, guidance_scale in sorted(branches(**one)):
        ran = count_executed_steps(steps, strength)
        if pair.position > steps - ran:
            pair, faults = model.integrate(pair, sources, steps - ran)
            failed |= faults.keys()
        edited, faults = model.integrate(pair, targets, steps, guidance_scale=guidance_scale)
        to_truth, outside = errors(model, edited, edits, failed | faults.keys())
        calls = len(SAMPLERS[pair.sampling.name].evaluated_steps(pair.schedule, steps - ran, steps))
        rows.append(
            {
                **one,
                "guidance_scale": guidance_scale,
                "strength": strength,
                "truth": mean_interval(to_truth, drawings),
                "outside": mean_interval(outside, drawings),
                "failed": int(np.isnan(to_truth).sum()),
                "evaluations": [calls * (1 if scale == 1 else 2) for scale in (inverted_at, guidance_scale)],
                "errors": to_truth.round(5).tolist(),
            }
        )
    return rows


def compare(rows: Sequence[dict[str, Any]], edits: Sequence[ReferenceEdit]) -> list[dict[str, Any]]:
    """Return the differences of the errors to the truth between the two settings of each of COMPARED."""
    found = {tuple(row[name] for name in SETTING): np.array(row["errors"], dtype=float) for row in rows}
    drawings = np.array([edit.drawings for edit in edits])
    return [
        {
            "of": dict(zip(SETTING, first, strict=True)),
            "less": dict(zip(SETTING, second, strict=True)),
            "truth": mean_interval(found[first] - found[second], drawings),
        }
        for first, second in COMPARED
    ]


def unedited(edits: Sequence[ReferenceEdit]) -> tuple[float, float, float]:
    """Return the distance of the sources to the truth."""
    distances = squared_error([edit.source.image for edit in edits], [edit.target.image for edit in edits])
    return mean_interval(distances, np.array([edit.drawings for edit in edits]))
