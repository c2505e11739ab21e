"""Measure edits against their ground truth: the held-out demo image that a one-word change of the caption leads to.

Errors are mean squared distances to that image, between 8-bit images with pixels on [-1, 1]. Errors "outside" only
count the pixels where source and truth agree, so that nothing should change.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from PIL import Image

from edict import EDICT
from jobs.evaluation.edit_tables import summarize
from jobs.evaluation.errors import EvaluationError
from jobs.evaluation.methods import METHODS, Setting, apply_method
from jobs.evaluation.model import load_default_model
from jobs.evaluation.truth import ReferenceEdit, outside_error, squared_error
from pipeline.progress import Progress

SCALES = ((1.0, 1.0), (1.0, 1.5), (1.0, 2.0), (1.0, 3.0), (3.0, 3.0), (5.0, 5.0))
GRID = tuple(Setting(strength, *scales) for strength, scales in product((0.6, 0.8, 0.9, 1.0), SCALES))

Trial = tuple[str, Setting]
"""The name of a method, and its setting."""


@dataclass(frozen=True)
class RunOptions:
    """The steps of every edit, the images per network call, and the worker processes.

    The images do not depend on the number of workers, because each has one thread.
    """

    steps: int
    batch: int
    workers: int


@dataclass(frozen=True)
class EditResults:
    """The result of `measure`.

    `settings` are the settings that were tested, by method. `grids` are the errors of all settings that were tried on
    the tuning edits, by method; empty if the settings were given. `images` are the images of each row of the contact
    sheet. `rows` are those of `edit_tables.summarize`.
    """

    settings: dict[str, Setting]
    grids: dict[str, list[dict[str, Any]]]
    images: dict[str, Sequence[Image.Image]]
    rows: list[dict[str, Any]]


def measure(
    model: EDICT,
    tuning: Sequence[ReferenceEdit],
    test: Sequence[ReferenceEdit],
    settings: Mapping[str, Setting] | None,
    options: RunOptions,
) -> EditResults:
    """Measure every method on the `test` edits, at its setting. Without `settings`, choose them on the `tuning` edits.

    Raises:
        EvaluationError: Every setting of the grid fails on some edit.
    """
    total = len(METHODS) * (len(test) + (len(GRID) * len(tuning) if settings is None else 0))
    targets = [edit.target.image for edit in test]
    images: dict[str, Sequence[Image.Image]] = {"source": [edit.source.image for edit in test]}
    images["autoencoder"] = model.decode(model.encode(targets).to_float()[0])
    images["truth"] = targets
    errors = {name: squared_error(images[name], targets) for name in ("source", "autoencoder")}
    grids = dict[str, list[dict[str, Any]]]()
    with Progress("edits", total, "images") as progress, process_pool(options.workers) as pool:
        if settings is None:
            grids = _try_grid(pool, progress, tuning, options)
            settings = {name: _setting(best(tried)) for name, tried in grids.items()}
        trials = [(name, settings[name]) for name in METHODS]
        for (name, _), (made, found) in zip(trials, _run(pool, progress, trials, test, options), strict=True):
            images[name], errors[name] = made, found
    outside = {
        name: np.where(np.isnan(values), np.nan, outside_error(images[name], test)) for name, values in errors.items()
    }
    return EditResults(dict(settings), grids, images, summarize(test, errors, outside))


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool of processes with one thread of torch each."""
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))


def best(tried: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the entry with the least mean error among those that did not fail on any edit.

    Raises:
        EvaluationError: Every entry failed on some edit.
    """
    valid = [one for one in tried if not one["failed"]]
    if not valid:
        raise EvaluationError("every setting of the grid fails on some edit. Give fewer --steps")
    return min(valid, key=lambda one: one["mse"])


def _try_grid(
    pool: ProcessPoolExecutor, progress: Progress, tuning: Sequence[ReferenceEdit], options: RunOptions
) -> dict[str, list[dict[str, Any]]]:
    """Return the mean error and the failures of every setting of GRID, by method."""
    grids = dict[str, list[dict[str, Any]]]()
    trials = [(name, setting) for name in METHODS for setting in GRID]
    for (name, setting), (_, errors) in zip(trials, _run(pool, progress, trials, tuning, options), strict=True):
        failed = int(np.isnan(errors).sum())
        grids.setdefault(name, []).append({**setting._asdict(), "mse": float(errors.mean()), "failed": failed})
    return grids


def _setting(tried: Mapping[str, Any]) -> Setting:
    return Setting(*(tried[field] for field in Setting._fields))


def _run(
    pool: ProcessPoolExecutor,
    progress: Progress,
    trials: Sequence[Trial],
    edits: Sequence[ReferenceEdit],
    options: RunOptions,
) -> Iterator[tuple[list[Image.Image], np.ndarray]]:
    """Yield the edited images of each trial, and their errors, float64 [N]. An edit that failed has the error nan."""
    batches = [edits[first : first + options.batch] for first in range(0, len(edits), options.batch)]
    running = [[pool.submit(_edit, trial, batch, options) for batch in batches] for trial in trials]
    for done in as_completed(future for futures in running for future in futures):
        progress.advance(len(done.result()[0]))
    targets = [edit.target.image for edit in edits]
    for futures in running:
        images = [image for future in futures for image in future.result()[0]]
        failed = [fault for future in futures for fault in future.result()[1]]
        yield images, np.where(failed, np.nan, squared_error(images, targets))


def _edit(trial: Trial, edits: Sequence[ReferenceEdit], options: RunOptions) -> tuple[list[Image.Image], list[bool]]:
    """Make a batch of edits in a worker process, as `apply_method`."""
    name, setting = trial
    return apply_method(_worker_model(), METHODS[name], setting, edits, steps=options.steps, batch=options.batch)


@functools.cache
def _worker_model() -> EDICT:
    """Return the model of this worker process, loaded once."""
    return load_default_model()
