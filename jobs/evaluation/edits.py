"""Edits against their ground truth: the held-out demo picture that a caption's change of one word really leads to.

Errors are mean squared distances to that picture, of 8-bit pictures on [-1, 1] pixels; "outside" they are taken where
source and truth agree, so that nothing should change.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from edict import EDICT, Control, Pair, ddim
from edict.training.emoji import KINDS
from jobs.evaluation.errors import EvaluationError
from jobs.evaluation.truth import Edit, outside_error, squared_error
from pipeline.progress import Progress


class Setting(NamedTuple):
    """How an edit is made; the guidance scale is that of both directions."""

    strength: float
    guidance_scale: float


GRID = tuple(Setting(*pair) for pair in product((0.6, 0.8, 0.9, 1.0), (1.0, 3.0, 5.0)))
Method = Callable[[EDICT, Pair, list[str], list[str]], tuple[torch.Tensor, set[int]]]
"""(model, prepared clean end, source captions, target captions) -> edited latents [N, C, H, W], those that failed."""


def by_edict(model: EDICT, start: Pair, sources: list[str], targets: list[str]) -> tuple[torch.Tensor, set[int]]:
    """EDICT's inversion under the source's caption and generation under the target's."""
    noise, faults = model.move(start, sources, 0)
    edited, more = model.move(noise, targets, start.position)
    return edited.to_float()[0], {*faults, *more}


@torch.inference_mode()
def by_ddim(model: EDICT, start: Pair, sources: list[str], targets: list[str]) -> tuple[torch.Tensor, set[int]]:
    """The same with DDIM along the same schedule."""
    schedule, guidance_scale = start.schedule, start.guidance_scale
    latents = start.to_float()[0]
    noise = ddim.invert(latents, schedule, model.predictor(sources, guidance_scale), start=schedule.depth, stop=0)
    predict = model.predictor(targets, guidance_scale)
    return ddim.generate(noise, schedule, predict, start=0, stop=schedule.depth), set()


def by_control(model: EDICT, start: Pair, sources: list[str], targets: list[str]) -> tuple[torch.Tensor, set[int]]:
    """EDICT with prompt-to-prompt attention control: each source's attention is regenerated beside its edit."""
    noise, faults = model.move(start, sources, 0)
    both, more = model.edit(noise, sources, [[target] for target in targets], control=Control())
    # source, edit, source, edit, ...
    return both[1::2].to_float()[0], {*faults, *(i // 2 for i in more)}


@torch.inference_mode()
def by_sdedit(model: EDICT, start: Pair, sources: list[str], targets: list[str]) -> tuple[torch.Tensor, set[int]]:
    """SDEdit (Meng et al., 2108.01073): noised at random, with one seed, to the strength's depth; then DDIM."""
    schedule, alpha = start.schedule, start.schedule.alpha(0)
    latents = start.to_float()[0]
    noise = torch.randn(latents.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noised = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise.to(latents.device)
    predict = model.predictor(targets, start.guidance_scale)
    return ddim.generate(noised, schedule, predict, start=0, stop=schedule.depth), set()


METHODS: dict[str, Method] = {"EDICT": by_edict, "DDIM": by_ddim, "control": by_control, "SDEdit": by_sdedit}
"""By the names they are printed under; "control" is EDICT with attention control."""


@dataclass(frozen=True)
class Measured:
    """The pictures of each method beside source, autoencoder and truth, the rows of the table, and the settings tried.

    `rows` hold of every kind, and of all: `n`; the mean and its 95 % interval of each one's distance to the truth, of
    EDICT's less each other method's, and, under "outside", of the same outside what should change; the share of pairs
    `nearer` the truth than the source is; how many `failed`. `grids` are empty where settings were given.
    """

    settings: dict[str, Setting]
    grids: dict[str, list[dict[str, Any]]]
    pictures: dict[str, Sequence[Image.Image]]
    rows: list[dict[str, Any]]


def measure(
    model: EDICT,
    tuning: Sequence[Edit],
    test: Sequence[Edit],
    settings: Mapping[str, Setting] | None,
    *,
    steps: int,
    batch: int,
) -> Measured:
    """Every method on the `test` pairs, at `settings` by method; None chooses from GRID on the `tuning` pairs.

    Raises EvaluationError where no setting of the grid works on all pairs.
    """
    chosen, grids = dict(settings or {}), dict[str, list[dict[str, Any]]]()
    total = len(METHODS) * (len(test) + (len(GRID) * len(tuning) if settings is None else 0))
    targets = [edit.target.image for edit in test]
    made: dict[str, Sequence[Image.Image]] = {"source": [edit.source.image for edit in test]}
    made["autoencoder"] = model.decode(model.encode(targets).to_float()[0])
    made["truth"] = targets
    errors = {name: squared_error(made[name], targets) for name in ("source", "autoencoder")}
    with Progress("edits", total, "pictures") as progress:
        for name, method in METHODS.items():
            if settings is None:
                chosen[name], grids[name] = choose(model, method, tuning, progress, steps=steps, batch=batch)
            made[name], errors[name] = edited(model, method, test, chosen[name], progress, steps=steps, batch=batch)
    outside = {
        name: np.where(np.isnan(values), np.nan, outside_error(made[name], test)) for name, values in errors.items()
    }
    kinds = np.array([edit.kind for edit in test])
    of_kind = {kind: kinds == kind for kind in KINDS if kind in kinds} | {"all": np.ones(len(test), dtype=bool)}
    rows = [summary(kind, _of(errors, rows), _of(outside, rows)) for kind, rows in of_kind.items()]
    return Measured(chosen, grids, made, rows)


def edited(
    model: EDICT,
    method: Method,
    edits: Sequence[Edit],
    setting: Setting,
    progress: Progress,
    *,
    steps: int,
    batch: int,
) -> tuple[list[Image.Image], np.ndarray]:
    """The edited pictures and each one's error, float64 [N], nan where the method failed."""
    images: list[Image.Image] = []
    failed: list[bool] = []
    for first in range(0, len(edits), batch):
        part = edits[first : first + batch]
        start = model.prepare(
            model.encode([edit.source.image for edit in part]), steps=steps, **setting._asdict(), batch_size=batch
        )
        latents, faults = method(
            model, start, [edit.source.caption for edit in part], [edit.target.caption for edit in part]
        )
        images += model.decode(latents)
        failed += [i in faults for i in range(len(part))]
        progress.advance(len(part))
    return images, np.where(failed, np.nan, squared_error(images, [edit.target.image for edit in edits]))


def choose(
    model: EDICT, method: Method, edits: Sequence[Edit], progress: Progress, *, steps: int, batch: int
) -> tuple[Setting, list[dict[str, Any]]]:
    """The setting of GRID with the least mean error, and all of them; one that fails on any pair is not chosen."""
    tried = []
    for setting in GRID:
        _, errors = edited(model, method, edits, setting, progress, steps=steps, batch=batch)
        tried.append({**setting._asdict(), "mse": float(errors.mean()), "failed": int(np.isnan(errors).sum())})
    if all(one["failed"] for one in tried):
        raise EvaluationError("every setting of the grid fails on some pair; take fewer steps")
    best = min((one for one in tried if not one["failed"]), key=lambda one: one["mse"])
    return Setting(best["strength"], best["guidance_scale"]), tried


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean of [N] and its 95 % interval by 10,000 bootstrap resamples, seeded; nan left out."""
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    means = values[np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def summary(kind: str, errors: dict[str, np.ndarray], outside: dict[str, np.ndarray]) -> dict[str, Any]:
    """The row of one kind, as Measured has it."""
    return {
        "kind": kind,
        "n": len(errors["source"]),
        **_intervals(errors),
        "outside": _intervals(outside),
        "nearer": {name: float((errors[name] < errors["source"]).mean()) for name in METHODS},
        "failed": {name: int(np.isnan(errors[name]).sum()) for name in METHODS},
    }


def _of(errors: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in errors.items()}


def _intervals(errors: dict[str, np.ndarray]) -> dict[str, tuple[float, float, float]]:
    less = {f"EDICT - {name}": errors["EDICT"] - errors[name] for name in METHODS if name != "EDICT"}
    return {name: mean_interval(values) for name, values in (errors | less).items()}


COMPARED = (*METHODS, *(f"EDICT - {name}" for name in METHODS if name != "EDICT"))
"""What is printed with an interval: every method, and EDICT less each other."""

HEAD = (
    "kind",
    "n",
    "source",
    "autoencoder",
    *(f"{name} [95 %]" for name in COMPARED),
    *(f"{name} nearer" for name in METHODS),
    "failed",
)
OUTSIDE_HEAD = ("kind", *(f"{name}, outside [95 %]" for name in ("autoencoder", *COMPARED)))


def line(row: dict[str, Any]) -> list[object]:
    """A row as it is printed."""
    shares = [f"{row['nearer'][name]:.0%}" for name in METHODS]
    failed = " + ".join(str(row["failed"][name]) for name in METHODS)
    means = [f"{row[name][0]:.4f}" for name in ("source", "autoencoder")]
    return [row["kind"], row["n"], *means, *(_interval(row[name]) for name in COMPARED), *shares, failed]


def outside_line(row: dict[str, Any]) -> list[object]:
    """What a row says of the change outside what should change, as it is printed."""
    return [row["kind"], *(_interval(row["outside"][name]) for name in ("autoencoder", *COMPARED))]


def _interval(values: tuple[float, float, float]) -> str:
    return "{:.4f} [{:.4f}, {:.4f}]".format(*values)
