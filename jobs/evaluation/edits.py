"""Edits against their ground truth: the held-out demo picture that a caption's change of one word really leads to.

Errors are mean squared distances to that picture, of 8-bit pictures on [-1, 1] pixels; "outside" they are taken where
source and truth agree, so that nothing should change.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from edict import EDICT, Control, Pair
from edict.control import ineffective_reason
from edict.integration import solve_floats
from edict.samplers import sampling
from jobs.demo import KINDS
from jobs.evaluation.errors import EvaluationError
from jobs.evaluation.truth import ReferenceEdit, outside_error, squared_error
from pipeline.progress import Progress
from schemas.sampling import count_executed_steps


class Setting(NamedTuple):
    """How an edit is made: the guidance scales of the inversion, which SDEdit does without, and of the edit."""

    strength: float
    inverted_at: float
    edited_at: float


SCALES = ((1.0, 1.0), (1.0, 1.5), (1.0, 2.0), (1.0, 3.0), (3.0, 3.0), (5.0, 5.0))
GRID = tuple(Setting(strength, *scales) for strength, scales in product((0.6, 0.8, 0.9, 1.0), SCALES))
Edited = tuple[torch.Tensor, set[int]]
"""Latents [N, C, H, W], and those that failed."""
Method = Callable[[EDICT, Pair, list[str], list[str], float], Edited]
"""(model, prepared clean end, source captions, target captions, the edit's guidance scale) -> edited."""


def by_edict(model: EDICT, start: Pair, sources: list[str], targets: list[str], guidance_scale: float) -> Edited:
    """EDICT's inversion under the source's caption and generation under the target's."""
    noise, faults = model.integrate(start, sources, 0)
    edited, more = model.integrate(noise, targets, start.position, guidance_scale=guidance_scale)
    return edited.to_float()[0], {*faults, *more}


@torch.inference_mode()
def by_ddim(
    model: EDICT, start: Pair, sources: list[str], targets: list[str], guidance_scale: float, *, sampler: str
) -> Edited:
    """Edit by DDIM inversion, whose convention is that of `sampler`, and generation along one schedule."""
    schedule, predict = start.schedule, model.direct.predictor(sources, start.guidance_scale)
    noise = solve_floats(start.to_float()[0], sampler, schedule, predict, schedule.num_steps, 0)
    predict = model.direct.predictor(targets, guidance_scale)
    return solve_floats(noise, sampler, schedule, predict, 0, schedule.num_steps), set()


def check_control(model: EDICT, steps: int, strength: float) -> None:
    """Raise EvaluationError if attention control has no effect on edits of `steps` steps at this strength."""
    network = model.direct
    reason = ineffective_reason(
        Control(), count_executed_steps(steps, strength), network.latent_side, network.attention_sides
    )
    if reason is not None:
        raise EvaluationError(f"attention control at strength {strength:g} of {steps} steps: {reason}")


def by_control(model: EDICT, start: Pair, sources: list[str], targets: list[str], guidance_scale: float) -> Edited:
    """EDICT with prompt-to-prompt attention control: each source's attention is regenerated beside its edit."""
    noise, faults = model.integrate(start, sources, 0)
    prompts = [[target] for target in targets]
    both, more = model.edit(noise, sources, prompts, control=Control(), guidance_scale=guidance_scale)
    # source, edit, source, edit, ...
    return both[1::2].to_float()[0], {*faults, *(i // 2 for i in more)}


@torch.inference_mode()
def by_sdedit(model: EDICT, start: Pair, sources: list[str], targets: list[str], guidance_scale: float) -> Edited:
    """SDEdit (Meng et al., 2108.01073): noised at random, with one seed, to the strength's depth; then DDIM."""
    schedule, alpha = start.schedule, start.schedule.alpha(0)
    latents = start.to_float()[0]
    noise = torch.randn(latents.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noised = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise.to(latents.device)
    predict = model.direct.predictor(targets, guidance_scale)
    return solve_floats(noised, "ddim", schedule, predict, 0, schedule.num_steps), set()


METHODS: dict[str, Method] = {
    "EDICT": by_edict,
    "DDIM": partial(by_ddim, sampler="ddim"),
    "DDIM Euler": partial(by_ddim, sampler="ddim_euler"),
    "control": by_control,
    "SDEdit": by_sdedit,
}
"""The methods by the names that tables print. The two conventions of DDIM inversion are those of `edict.samplers.ddim`;
"control" is EDICT with attention control."""


@dataclass(frozen=True)
class Measured:
    """The pictures of each method beside source, autoencoder and truth, the rows of the table, and the settings tried.

    `rows` hold of every kind, and of all: `n`, and how many `drawings` resamples take together; the mean and its 95 %
    interval of each one's distance to the truth, of EDICT's less each other method's, and, under "outside", of the same
    outside what should change; the share of pairs `nearer` the truth than the source is; how many `failed`. `grids` are
    empty where settings were given.
    """

    settings: dict[str, Setting]
    grids: dict[str, list[dict[str, Any]]]
    pictures: dict[str, Sequence[Image.Image]]
    rows: list[dict[str, Any]]


def measure(
    model: EDICT,
    tuning: Sequence[ReferenceEdit],
    test: Sequence[ReferenceEdit],
    settings: Mapping[str, Setting] | None,
    *,
    steps: int,
    batch: int,
    workers: int,
) -> Measured:
    """Every method on the `test` pairs, at `settings` by method; None chooses from GRID on the `tuning` pairs.

    By so many worker processes of one thread each, on which the pictures do not depend. Raises EvaluationError where no
    setting of the grid works on all pairs.
    """
    chosen, grids = dict(settings or {}), dict[str, list[dict[str, Any]]]()
    total = len(METHODS) * (len(test) + (len(GRID) * len(tuning) if settings is None else 0))
    targets = [edit.target.image for edit in test]
    made: dict[str, Sequence[Image.Image]] = {"source": [edit.source.image for edit in test]}
    made["autoencoder"] = model.decode(model.encode(targets).to_float()[0])
    made["truth"] = targets
    errors = {name: squared_error(made[name], targets) for name in ("source", "autoencoder")}
    with Progress("edits", total, "pictures") as progress, pool_of(workers) as pool:
        run = partial(edited, pool, progress, steps=steps, batch=batch)
        if settings is None:
            tries = [(name, setting) for name in METHODS for setting in GRID]
            for (name, setting), (_, found) in zip(tries, run(tries, tuning), strict=True):
                failed = int(np.isnan(found).sum())
                tried = {**setting._asdict(), "mse": float(found.mean()), "failed": failed}
                grids.setdefault(name, []).append(tried)
            least = {name: best(tried) for name, tried in grids.items()}
            chosen = {name: Setting(*(one[field] for field in Setting._fields)) for name, one in least.items()}
        for name, (images, found) in zip(METHODS, run([(name, chosen[name]) for name in METHODS], test), strict=True):
            made[name], errors[name] = images, found
    outside = {
        name: np.where(np.isnan(values), np.nan, outside_error(made[name], test)) for name, values in errors.items()
    }
    kinds = np.array([edit.kind for edit in test])
    drawings = np.array([edit.drawings for edit in test])
    of_kind = {kind: kinds == kind for kind in KINDS if kind in kinds} | {"all": np.ones(len(test), dtype=bool)}
    rows = [summary(kind, _of(errors, rows), _of(outside, rows), drawings[rows]) for kind, rows in of_kind.items()]
    return Measured(chosen, grids, made, rows)


def edited(
    pool: ProcessPoolExecutor,
    progress: Progress,
    tries: Sequence[tuple[str, Setting]],
    edits: Sequence[ReferenceEdit],
    *,
    steps: int,
    batch: int,
) -> list[tuple[list[Image.Image], np.ndarray]]:
    """By each try, a method at a setting, the edited pictures and their errors, float64 [N], nan where it failed."""
    parts = [edits[first : first + batch] for first in range(0, len(edits), batch)]
    running = [[pool.submit(_edit, *one, part, steps, batch) for part in parts] for one in tries]
    for done in as_completed(future for futures in running for future in futures):
        progress.advance(len(done.result()[0]))
    targets = [edit.target.image for edit in edits]
    found = []
    for futures in running:
        images = [image for future in futures for image in future.result()[0]]
        failed = [fault for future in futures for fault in future.result()[1]]
        found.append((images, np.where(failed, np.nan, squared_error(images, targets))))
    return found


def pool_of(workers: int) -> ProcessPoolExecutor:
    """Processes of one thread each."""
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))


@functools.cache
def _model() -> EDICT:
    """The model of a worker process."""
    logging.disable_progress_bar()
    model = EDICT.from_pretrained()
    model.set_progress_bar_config(disable=True)
    return model


def _edit(
    name: str, setting: Setting, edits: Sequence[ReferenceEdit], steps: int, batch: int
) -> tuple[list[Image.Image], list[bool]]:
    """A batch of edits in a worker process, and which of them failed."""
    return edit_batch(_model(), METHODS[name], setting, edits, steps=steps, batch=batch)


def edit_batch(
    model: EDICT, method: Method, setting: Setting, edits: Sequence[ReferenceEdit], *, steps: int, batch: int
) -> tuple[list[Image.Image], list[bool]]:
    """The pictures that a method makes of at most `batch` edits, and which of them failed."""
    start = model.encode([edit.source.image for edit in edits])
    scale = setting.inverted_at
    start = model.prepare(start, sampling(steps=steps, strength=setting.strength, guidance_scale=scale), batch)
    sources, targets = (
        [end.caption for end in ends] for ends in zip(*((e.source, e.target) for e in edits), strict=True)
    )
    latents, faults = method(model, start, sources, targets, setting.edited_at)
    return model.decode(latents), [i in faults for i in range(len(edits))]


def best(tried: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was tried with the least mean error; what failed on any pair is not taken. Raises EvaluationError."""
    sound = [one for one in tried if not one["failed"]]
    if not sound:
        raise EvaluationError("every setting of the grid fails on some pair; take fewer steps")
    return min(sound, key=lambda one: one["mse"])


def mean_interval(values: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float, float]:
    """The mean of [N] and its 95 % interval by 10,000 bootstrap resamples, seeded; nan left out.

    Values of one group, of `groups` [N], come and go together; None is a group each.
    """
    there = ~np.isnan(values)
    if not there.any():
        return float("nan"), float("nan"), float("nan")
    values, groups = values[there], np.arange(len(values))[there] if groups is None else groups[there]
    _, of = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(of, values), np.bincount(of)
    drawn = np.random.default_rng(0).integers(len(sums), size=(10_000, len(sums)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def summary(
    kind: str, errors: dict[str, np.ndarray], outside: dict[str, np.ndarray], drawings: np.ndarray
) -> dict[str, Any]:
    """The row of one kind, as Measured has it."""
    return {
        "kind": kind,
        "n": len(errors["source"]),
        "drawings": len(np.unique(drawings)),
        **_intervals(errors, drawings),
        "outside": _intervals(outside, drawings),
        "nearer": {name: float((errors[name] < errors["source"]).mean()) for name in METHODS},
        "failed": {name: int(np.isnan(errors[name]).sum()) for name in METHODS},
    }


def _of(errors: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in errors.items()}


def _intervals(errors: dict[str, np.ndarray], drawings: np.ndarray) -> dict[str, tuple[float, float, float]]:
    less = {f"EDICT - {name}": errors["EDICT"] - errors[name] for name in METHODS if name != "EDICT"}
    return {name: mean_interval(values, drawings) for name, values in (errors | less).items()}


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
    return [row["kind"], row["n"], *means, *(interval(row[name]) for name in COMPARED), *shares, failed]


def outside_line(row: dict[str, Any]) -> list[object]:
    """What a row says of the change outside what should change, as it is printed."""
    return [row["kind"], *(interval(row["outside"][name]) for name in ("autoencoder", *COMPARED))]


def interval(values: tuple[float, float, float]) -> str:
    """A mean and its interval, as they are printed."""
    return "{:.4f} [{:.4f}, {:.4f}]".format(*values)
