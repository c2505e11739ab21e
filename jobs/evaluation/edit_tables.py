"""The tables of `edict eval edits`: one row per kind of edit, with the error of each method."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jobs.demo import KINDS
from jobs.evaluation.bootstrap import Interval, format_interval, mean_interval
from jobs.evaluation.methods import METHODS
from jobs.evaluation.truth import ReferenceEdit

Errors = Mapping[str, np.ndarray]
"""The mean squared error of each edit, float64 [N], by the name of its image: a method, `source` or `autoencoder`."""

DIFFERENCES = {f"EDICT - {name}": name for name in METHODS if name != "EDICT"}
COMPARED = (*METHODS, *DIFFERENCES)
"""The columns with an interval: every method, and the difference between EDICT and each other method."""

HEAD = (
    "kind",
    "n",
    "source",
    "autoencoder",
    *(f"{name} [95%]" for name in COMPARED),
    *(f"{name} nearer" for name in METHODS),
    "failed",
)
OUTSIDE_HEAD = ("kind", *(f"{name}, outside [95%]" for name in ("autoencoder", *COMPARED)))


def summarize(edits: Sequence[ReferenceEdit], errors: Errors, outside: Errors) -> list[dict[str, Any]]:
    """Return a row for each kind of edit, and one for all.

    `errors` are the distances to the truth, and `outside` are the same over the pixels where source and truth agree.

    A row has `n`, and `drawings`, the number of independent groups. It has the mean and its interval for each of
    COMPARED, for `source` and for `autoencoder`, and the same again under `outside`. For each method, it has the share
    of edits that are `nearer` to the truth than the source is, and the number of edits that `failed`.
    """
    kinds = np.array([edit.kind for edit in edits])
    drawings = np.array([edit.drawings for edit in edits])
    selected = {kind: kinds == kind for kind in KINDS if kind in kinds} | {"all": np.ones(len(edits), dtype=bool)}
    return [
        _row(kind, _rows_of(errors, rows), _rows_of(outside, rows), drawings[rows]) for kind, rows in selected.items()
    ]


def _row(kind: str, errors: Errors, outside: Errors, drawings: np.ndarray) -> dict[str, Any]:
    return {
        "kind": kind,
        "n": len(errors["source"]),
        "drawings": len(np.unique(drawings)),
        **_intervals(errors, drawings),
        "outside": _intervals(outside, drawings),
        "nearer": {name: float((errors[name] < errors["source"]).mean()) for name in METHODS},
        "failed": {name: int(np.isnan(errors[name]).sum()) for name in METHODS},
    }


def _rows_of(errors: Errors, rows: np.ndarray) -> Errors:
    return {name: values[rows] for name, values in errors.items()}


def _intervals(errors: Errors, drawings: np.ndarray) -> dict[str, Interval]:
    differences = {title: errors["EDICT"] - errors[name] for title, name in DIFFERENCES.items()}
    return {name: mean_interval(values, drawings) for name, values in (dict(errors) | differences).items()}


def line(row: Mapping[str, Any]) -> list[object]:
    """Return the cells of a row, in the order of HEAD."""
    shares = [f"{row['nearer'][name]:.0%}" for name in METHODS]
    failed = " + ".join(str(row["failed"][name]) for name in METHODS)
    means = [f"{row[name][0]:.4f}" for name in ("source", "autoencoder")]
    return [row["kind"], row["n"], *means, *(format_interval(row[name]) for name in COMPARED), *shares, failed]


def outside_line(row: Mapping[str, Any]) -> list[object]:
    """Return the cells of a row outside the edited region, in the order of OUTSIDE_HEAD."""
    return [row["kind"], *(format_interval(row["outside"][name]) for name in ("autoencoder", *COMPARED))]
