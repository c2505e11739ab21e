"""Edits by each sampler against their ground truth, by steps.

`python -m benchmarks.samplers.edits`. The strength and guidance scale of each sampler are those with the least
error on the tuning pairs of `edict eval edits --grid`. They are chosen at one number of steps, and used at all of them.
Errors are mean squared distances of 8-bit images on [-1, 1] pixels: to the truth, and "outside", where source and truth
agree.
"""

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch

from benchmarks.harness import program, run, save
from benchmarks.samplers import tables
from edict import EDICT, Pair
from edict.samplers import SAMPLERS, sampling, with_defaults
from jobs.demo import KINDS
from jobs.evaluation.bootstrap import mean_interval
from jobs.evaluation.edits import best
from jobs.evaluation.methods import Edited, Setting, apply_method, by_edict
from jobs.evaluation.truth import ReferenceEdit, outside_error, reference_edits, split, squared_error

GRID = tuple(product((0.6, 0.8, 1.0), (1.0, 3.0, 5.0)))  # strengths, and guidance scales of both directions


def spread(edits: Sequence[ReferenceEdit], per_kind: int) -> list[ReferenceEdit]:
    """Choose edits of every kind: the first of each pair of drawings before the second of any."""
    chosen = list[ReferenceEdit]()
    for kind in KINDS:
        counts, of_kind = Counter[str](), list[tuple[int, ReferenceEdit]]()
        for edit in edits:
            if edit.kind == kind:
                of_kind.append((counts[edit.drawings], edit))
                counts[edit.drawings] += 1
        chosen += [edit for _, edit in sorted(of_kind, key=lambda one: one[0])[:per_kind]]
    return chosen


def by_sampler(
    name: str, model: EDICT, start: Pair, sources: list[str], targets: list[str], guidance_scale: float
) -> Edited:
    """Invert under the source's caption and generate under the target's by any sampler."""
    settings = sampling(name=name, **start.sampling.model_dump(exclude={"name", "p", "gamma"}))
    ready = replace(start, sampling=with_defaults(settings, start.schedule.num_steps))
    return by_edict(model, ready, sources, targets, guidance_scale)


def errors(
    model: EDICT, name: str, setting: Setting, edits: Sequence[ReferenceEdit], *, steps: int, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors to the truth and outside, float64 [N] each, NaN where an edit failed."""
    images, failed = [], list[bool]()
    for first in range(0, len(edits), batch):
        part = edits[first : first + batch]
        made, faults = apply_method(model, partial(by_sampler, name), setting, part, steps=steps, batch=batch)
        images += made
        failed += faults
    to_truth = squared_error(images, [edit.target.image for edit in edits])
    return np.where(failed, np.nan, to_truth), np.where(failed, np.nan, outside_error(images, edits))


def choose(model: EDICT, tuning: Sequence[ReferenceEdit], *, steps: int, batch: int) -> dict[str, list[dict[str, Any]]]:
    """Return the errors of the grid by sampler."""
    grids: dict[str, list[dict[str, Any]]] = {name: [] for name in SAMPLERS}
    for name, (strength, scale) in product(SAMPLERS, GRID):
        found, _ = errors(model, name, Setting(strength, scale, scale), tuning, steps=steps, batch=batch)
        row = {"strength": strength, "guidance_scale": scale, "mse": float(found.mean())}
        grids[name].append({**row, "failed": int(np.isnan(found).sum())})
        print(name, grids[name][-1], flush=True)
    return grids


def measure(
    model: EDICT, test: Sequence[ReferenceEdit], settings: dict[str, Setting], *, counts: Sequence[int], batch: int
) -> list[dict[str, Any]]:
    """Return means and 95% intervals by steps and sampler, and differences to EDICT's at as many steps and calls.

    EDICT calls the network twice per step, so it has as many calls at half the steps.
    """
    drawings = np.array([edit.drawings for edit in test])
    kinds = np.array([edit.kind for edit in test])
    found: dict[tuple[str, int], np.ndarray] = {}
    rows = []
    for steps, name in product(sorted(counts), SAMPLERS):
        to_truth, outside = errors(model, name, settings[name], test, steps=steps, batch=batch)
        found[name, steps] = to_truth
        row = {
            "sampler": name,
            "steps": steps,
            "strength": settings[name].strength,
            "guidance_scale": settings[name].edited_at,
            "n": len(test),
            "drawings": len(np.unique(drawings)),
            "failed": int(np.isnan(to_truth).sum()),
            "truth": mean_interval(to_truth, drawings),
            "outside": mean_interval(outside, drawings),
            "kinds": {kind: float(np.nanmean(to_truth[kinds == kind])) for kind in KINDS},
        }
        for key, other in (("minus_edict", steps), ("minus_edict_as_many_calls", steps // 2)):
            if name != "edict" and ("edict", other) in found:
                row[key] = mean_interval(to_truth - found["edict", other], drawings)
        rows.append(row)
        print(row, flush=True)
    return rows


@program(batch=12, threads=torch.get_num_threads(), per_kind=16, tune=6, tune_steps=20, steps=[10, 20, 50, 100])
def edits(given: Namespace) -> None:
    model = EDICT.from_pretrained()
    tuning, rest = split(reference_edits(), given.tune)
    test = spread(rest, given.per_kind)
    grids = choose(model, tuning, steps=given.tune_steps, batch=given.batch)
    chosen = {name: best(tried) for name, tried in grids.items()}
    settings = {name: Setting(one["strength"], *[one["guidance_scale"]] * 2) for name, one in chosen.items()}
    rows = measure(model, test, settings, counts=given.steps, batch=given.batch)
    sources, targets = [edit.source.image for edit in test], [edit.target.image for edit in test]
    decoded = model.decode(model.encode(targets).to_float()[0])
    found: dict[str, Any] = {
        "tuned_on": len(tuning),
        "source": float(squared_error(sources, targets).mean()),
        "autoencoder": float(squared_error(decoded, targets).mean()),
        "grids": grids,
        "rows": rows,
    }
    tables.edits(found)
    save("samplers/edits", given, **found)


if __name__ == "__main__":
    run(__doc__, edits)
