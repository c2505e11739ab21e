"""Edits by each sampler against their ground truth, by steps.

`python -m benchmarks.samplers.edits`. Strength and guidance of each sampler are those with the least error on the
tuning pairs of `edict eval edits --grid`, at one number of steps, and hold at every other. Errors are mean squared
distances of 8-bit pictures on [-1, 1] pixels: to the truth, and "outside" to the same where source and truth agree.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch

from benchmarks.record import numbers, parser, save
from edict import EDICT, Pair
from edict.samplers import SAMPLERS, resolved, sampling
from jobs.demo import KINDS
from jobs.evaluation.edits import Edited, Setting, best, by_edict, edit_batch, interval, mean_interval
from jobs.evaluation.record import table
from jobs.evaluation.truth import ReferenceEdit, outside_error, split, squared_error, truth

GRID = tuple(product((0.6, 0.8, 1.0), (1.0, 3.0, 5.0)))
"""Strengths, and guidance scales of both directions."""


def spread(edits: Sequence[ReferenceEdit], per_kind: int) -> list[ReferenceEdit]:
    """So many edits of every kind, the first of each drawings before the second of any."""
    chosen = list[ReferenceEdit]()
    for kind in KINDS:
        met = Counter[str]()
        of_kind = list[tuple[int, ReferenceEdit]]()
        for edit in edits:
            if edit.kind == kind:
                of_kind.append((met[edit.drawings], edit))
                met[edit.drawings] += 1
        chosen += [edit for _, edit in sorted(of_kind, key=lambda one: one[0])[:per_kind]]
    return chosen


def by_sampler(
    name: str, model: EDICT, start: Pair, sources: list[str], targets: list[str], guidance_scale: float
) -> Edited:
    """The inversion under the source's caption and the generation under the target's by any sampler."""
    settings = sampling(name=name, **start.sampling.model_dump(exclude={"name", "p", "gamma"}))
    ready = replace(start, sampling=resolved(settings, start.schedule.num_steps))
    return by_edict(model, ready, sources, targets, guidance_scale)


def errors(
    model: EDICT, name: str, setting: Setting, edits: Sequence[ReferenceEdit], *, steps: int, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """To the truth and outside, float64 [N] each, nan where an edit failed."""
    images, failed = [], list[bool]()
    for first in range(0, len(edits), batch):
        part = edits[first : first + batch]
        made, faults = edit_batch(model, partial(by_sampler, name), setting, part, steps=steps, batch=batch)
        images += made
        failed += faults
    to_truth = squared_error(images, [edit.target.image for edit in edits])
    return np.where(failed, np.nan, to_truth), np.where(failed, np.nan, outside_error(images, edits))


def both(strength: float, guidance_scale: float) -> Setting:
    """One guidance scale in both directions."""
    return Setting(strength, guidance_scale, guidance_scale)


def choose(
    model: EDICT, tuning: Sequence[ReferenceEdit], *, steps: int, batch: int
) -> tuple[dict[str, Setting], dict[str, list[dict[str, Any]]]]:
    """The setting of each sampler, and all that were tried."""
    tried: dict[str, list[dict[str, Any]]] = {}
    for name, (strength, scale) in product(SAMPLERS, GRID):
        found, _ = errors(model, name, both(strength, scale), tuning, steps=steps, batch=batch)
        failed = int(np.isnan(found).sum())
        about = {"strength": strength, "guidance_scale": scale}
        tried.setdefault(name, []).append({**about, "mse": float(found.mean()), "failed": failed})
        print(name, tried[name][-1], flush=True)
    least = {name: best(ones) for name, ones in tried.items()}
    return {name: both(one["strength"], one["guidance_scale"]) for name, one in least.items()}, tried


def measure(
    model: EDICT, test: Sequence[ReferenceEdit], settings: dict[str, Setting], *, counts: Sequence[int], batch: int
) -> list[dict[str, Any]]:
    """By steps and sampler: means and 95 % intervals by drawings, and less EDICT's, at as many steps and as many calls.

    EDICT asks the network twice a step, so as many calls are half its steps.
    """
    drawings = np.array([edit.drawings for edit in test])
    kinds = np.array([edit.kind for edit in test])
    found: dict[tuple[str, int], np.ndarray] = {}
    rows = []
    for steps, name in product(sorted(counts), SAMPLERS):
        found[name, steps], outside = errors(model, name, settings[name], test, steps=steps, batch=batch)
        to_truth = found[name, steps]
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
        if name != "edict":
            row["minus_edict"] = mean_interval(to_truth - found["edict", steps], drawings)
            if ("edict", steps // 2) in found:
                row["minus_edict_as_many_calls"] = mean_interval(to_truth - found["edict", steps // 2], drawings)
        rows.append(row)
        print(*line(row), flush=True)
    return rows


HEAD = ("sampler", "steps", "strength", "guidance", "failed", "truth [95 %]", "outside [95 %]", "- edict [95 %]")


def line(row: dict[str, Any]) -> list[object]:
    """A row as it is printed."""
    about = [row[what] for what in ("sampler", "steps", "strength", "guidance_scale", "failed")]
    return [*about, *(interval(row[what]) if what in row else "" for what in ("truth", "outside", "minus_edict"))]


def main() -> None:
    arguments = parser(__doc__)
    arguments.set_defaults(batch=12)
    arguments.add_argument("--per-kind", type=int, default=16, help="edits of every kind to test on")
    arguments.add_argument("--tune", type=int, default=6, help="as with `edict eval edits`")
    arguments.add_argument("--tune-steps", type=int, default=20, help="steps at which the settings are chosen")
    arguments.add_argument("--steps", type=numbers, default=[10, 20, 50, 100])
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    model = EDICT.from_pretrained()
    tuning, left = split(truth(), given.tune)
    test = spread(left, given.per_kind)
    settings, grids = choose(model, tuning, steps=given.tune_steps, batch=given.batch)
    rows = measure(model, test, settings, counts=given.steps, batch=given.batch)
    doing_nothing = squared_error([edit.source.image for edit in test], [edit.target.image for edit in test])
    targets = [edit.target.image for edit in test]
    autoencoder = squared_error(model.decode(model.encode(targets).to_float()[0]), targets)
    ends = {"source": float(doing_nothing.mean()), "autoencoder": float(autoencoder.mean())}
    print(table(HEAD, [line(row) for row in rows]))
    print(f"\n{len(tuning)} pairs tuned on; {ends}")
    print(f"written to {save('samplers/edits', given, tuned_on=len(tuning), **ends, grids=grids, rows=rows)}")


if __name__ == "__main__":
    main()
