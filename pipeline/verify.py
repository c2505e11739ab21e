"""Verifying: regenerate stored pairs and compare every integer, by digest, with where the inversion began."""

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

from edict.samplers import SAMPLERS
from pipeline.cluster import connected
from pipeline.job import inverted_with
from pipeline.latents import read_latents
from pipeline.plan import Unit, part_units
from pipeline.pool import Pool
from pipeline.progress import Progress
from pipeline.status import status
from pipeline.store import Store, StoreError
from pipeline.work import Machine, Poison, Ready, Weights
from pipeline.worker import Ahead, fitting, load_model


@dataclass(frozen=True)
class VerifyTask:
    """All that a worker needs to verify units of a latent store."""

    latents: str
    weights: Weights
    machine: Machine


class VerifyWorker(Ready):
    """A Ray actor's body: regenerates the rows of one unit after the other under their own captions."""

    def __init__(self, task: VerifyTask) -> None:
        self.store = Store(task.latents)
        self.model = load_model(task.weights, task.machine)
        self.ahead = Ahead(lambda unit: read_latents(self.store, unit))

    def process(self, unit: Unit, number: int, ahead: Unit | None, poison: Poison) -> dict[str, Any]:
        """How many `rows` were regenerated, how many of them are `exact`, and what is wrong (`problems`)."""
        try:
            latents = self.ahead.take(unit, ahead)
        except StoreError as error:
            return {"rows": unit.count, "exact": 0, "problems": [str(error)]}
        pair = latents.pair
        with fitting(pair.batch_size):
            clean, faults = self.model.move(pair, latents.column("caption"), pair.schedule.depth)
        problems = [
            f"{unit.source}: key {key}: does not regenerate its starting lattice"
            for i, (key, stored, digest) in enumerate(
                zip(latents.column("key"), latents.column("digest"), clean.digests(), strict=True)
            )
            if i in faults or stored != digest
        ]
        return {"rows": unit.count, "exact": unit.count - len(problems), "problems": problems}


@dataclass(frozen=True)
class Verified:
    """How many rows were regenerated, how many of them came out exact, and everything that is wrong with the store."""

    rows: int
    exact: int
    problems: list[str]


def run_verify(location: str, *, rows: int | None, count: int, gpus: float) -> Verified:
    """Regenerate stored pairs: every one, or about `rows` of them, spread evenly.

    The sha256 and the page checksums of each part that is read are checked, and the counts over the whole store.
    Raises StoreError where it is no latent store, or another model's, or its sampler is not exact: a row has the digest
    of its start and not the start, so how far a regeneration is off cannot be told.
    """
    store = Store(location)
    job, weights = inverted_with(store)
    if not SAMPLERS[sampler := job["fingerprint"]["sampler"]].exact:
        raise StoreError(
            f"{location} was inverted with {sampler}, which is inexact by design: no pair regenerates its start, so "
            "there is nothing to verify; `edict status` checks the counts, `edict eval table1` measures DDIM's error"
        )
    found = status(store)
    problems = list(found.problems)
    if not found.complete:
        problems.append(f"{found.units - found.committed} of {found.units} units are not done")
    units = part_units(store, job["fingerprint"]["batch_size"], count) if found.complete else []
    if rows is not None:
        wanted = max(1, min(len(units), -(-rows * len(units) // max(1, sum(unit.count for unit in units)))))
        units = [units[i * len(units) // wanted] for i in range(wanted)] if units else []
    stored = Machine(**job["machine"])
    machine = dataclasses.replace(stored, gpus=gpus, device="cuda" if gpus else "cpu")
    if machine.device != stored.device:
        print(
            f"note: inverted on {stored.device}, regenerated on {machine.device}: expect close, not exact",
            file=sys.stderr,
        )
    task = VerifyTask(location, weights, machine)
    tried = exact = 0
    with connected(count, machine), Progress("verify", sum(unit.count for unit in units), "rows") as progress:
        for outcome in Pool(units, VerifyWorker, task, count=count, cpus=machine.threads, gpus=gpus).outcomes():
            if outcome is None:
                progress.advance(0)
            elif outcome.error is not None:
                problems.append(f"{outcome.unit.source}: {outcome.error}")
            else:
                tried += outcome.result["rows"]
                exact += outcome.result["exact"]
                problems += outcome.result["problems"]
                progress.advance(outcome.result["rows"])
    return Verified(tried, exact, problems)
