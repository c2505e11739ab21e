"""What strength, guidance, steps and p make of EDICT's edits: their distance to the truth, and what they cost."""

from argparse import Namespace
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from edict import EDICT
from edict.samplers import SAMPLERS, sampling
from jobs.evaluation.edits import interval, mean_interval
from jobs.evaluation.truth import ReferenceEdit, outside_error, squared_error
from schemas.sampling import executed

STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
P = SAMPLERS["edict"].parameters["p"]
MIXING = (0.90, 0.96, 0.98, 1.0)  # beside P
STEPS = 20  # of the whole grid
SETTING = ("steps", "p", "inverted_at", "guidance_scale", "strength")
COMPARED = (  # of the first, less the second
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
HEAD = (
    "steps",
    "p",
    "inverted at guidance",
    "edited at",
    "strength",
    "to the truth [95 %]",
    "outside [95 %]",
    "failed",
    "evaluations of the inversion",
    "of the edit",
)


def tries() -> list[dict[str, Any]]:
    """By steps, p, and the guidance of the inversion."""
    grid = [(STEPS, P, guidance) for guidance in (1.0, 2.0, 3.0, 5.0, 7.0)]
    mixing = [(steps, p, guidance) for steps, guidance in ((20, 1.0), (20, 3.0), (50, 1.0), (50, 3.0)) for p in MIXING]
    lines = [(10, P, 1.0), (10, P, 3.0), (50, P, 1.0), (50, P, 3.0)]
    return [dict(zip(("steps", "p", "inverted_at"), one, strict=True)) for one in (*grid, *mixing, *lines)]


def branches(steps: int, p: float, inverted_at: float) -> list[tuple[float, float]]:
    """Strengths and guidance of the edits that are made from one inversion."""
    if p != P:
        return [(1.0 if inverted_at == 1 else 0.8, inverted_at)]
    strengths = STRENGTHS if steps == STEPS else (0.6, 0.8, 0.9, 1.0)
    found = [(strength, inverted_at) for strength in strengths]
    if inverted_at == 1 and steps == STEPS:
        found += product((0.6, 0.8, 1.0), (1.5, 2.0, 3.0, 5.0))
    elif inverted_at == 1 and steps > STEPS:
        found += product((0.8, 1.0), (1.5, 2.0))
    return found


def measure(
    model: EDICT, edits: Sequence[ReferenceEdit], one: dict[str, Any], given: Namespace
) -> list[dict[str, Any]]:
    """Edits that branch off one inversion at full strength on its way up: at a strength s, after its first s * steps.

    Errors are mean squared distances to the truth, nan where an edit failed; intervals are of the drawings.
    """
    steps, inverted_at = one["steps"], one["inverted_at"]
    sources, targets = [edit.source.caption for edit in edits], [edit.target.caption for edit in edits]
    pair = model.encode([edit.source.image for edit in edits])
    pair = model.prepare(pair, sampling(steps=steps, strength=1.0, guidance_scale=inverted_at, p=one["p"]), given.batch)
    drawings = np.array([edit.drawings for edit in edits])
    rows, lost = [], set[int]()
    for strength, guidance_scale in sorted(branches(**one)):
        ran = executed(steps, strength)
        if pair.position > steps - ran:
            pair, faults = model.integrate(pair, sources, steps - ran)
            lost |= faults.keys()
        edited, met = model.integrate(pair, targets, steps, guidance_scale=guidance_scale)
        pictures = model.decode(edited.to_float()[0])
        failed = np.isin(np.arange(len(edits)), [*lost, *met])
        errors = np.where(failed, np.nan, squared_error(pictures, [edit.target.image for edit in edits]))
        calls = len(SAMPLERS[pair.sampling.name].evaluated_steps(pair.schedule, steps - ran, steps))
        rows.append(
            {
                **one,
                "guidance_scale": guidance_scale,
                "strength": strength,
                "truth": mean_interval(errors, drawings),
                "outside": mean_interval(np.where(failed, np.nan, outside_error(pictures, edits)), drawings),
                "failed": int(failed.sum()),
                "evaluations": [calls * (1 if scale == 1 else 2) for scale in (inverted_at, guidance_scale)],
                "errors": errors.round(5).tolist(),
            }
        )
    return rows


def compare(rows: Sequence[dict[str, Any]], drawings: Sequence[str]) -> list[dict[str, Any]]:
    """The error to the truth at the first setting of COMPARED less that at the second; `drawings` are the edits'."""
    errors = {tuple(row[name] for name in SETTING): np.array(row["errors"], dtype=float) for row in rows}
    return [
        {
            "of": dict(zip(SETTING, first, strict=True)),
            "less": dict(zip(SETTING, second, strict=True)),
            "truth": mean_interval(errors[first] - errors[second], np.array(drawings)),
        }
        for first, second in COMPARED
    ]


def unedited(edits: Sequence[ReferenceEdit]) -> tuple[float, float, float]:
    """The distance of the sources to the truth: what doing nothing comes to."""
    errors = squared_error([edit.source.image for edit in edits], [edit.target.image for edit in edits])
    return mean_interval(errors, np.array([edit.drawings for edit in edits]))


def line(row: dict[str, Any]) -> list[object]:
    """A row as it is printed."""
    settings = [row["steps"], *(f"{row[name]:g}" for name in ("p", "inverted_at", "guidance_scale", "strength"))]
    return [*settings, interval(row["truth"]), interval(row["outside"]), row["failed"], *row["evaluations"]]
