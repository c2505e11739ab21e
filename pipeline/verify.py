"""Verifying: regenerate stored pairs and compare every integer, by digest, with where the inversion began."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from edict.samplers import SAMPLERS
from pipeline.cluster import connected, machine_like
from pipeline.job import inverted_with
from pipeline.latents import read_latents
from pipeline.place import Place, place_of, told
from pipeline.plan import Unit, part_units
from pipeline.pool import Pool
from pipeline.progress import Progress
from pipeline.status import status
from pipeline.store import Store, StoreError
from pipeline.work import Machine, Poison, Ready, Weights
from pipeline.worker import Ahead, fitting, here, load_model

EXAMPLES = 20  # rows named of those that were inverted in one place and regenerated in another


@dataclass(frozen=True)
class VerifyTask:
    """All that a worker needs to verify units of a latent store."""

    latents: str
    weights: Weights
    machine: Machine


@dataclass(frozen=True)
class Regenerated:
    """What came of a unit: its rows, and those that are not exact, by part and key.

    `places` are where these were inverted, and regenerated; `problem` is why none could be.
    """

    rows: int
    inexact: Sequence[str] = ()
    places: tuple[Place, Place] | None = None
    problem: str | None = None


class VerifyWorker(Ready):
    """A Ray actor's body: regenerates the rows of one unit after the other under their own captions."""

    def __init__(self, task: VerifyTask) -> None:
        self.store = Store(task.latents)
        self.model = load_model(task.weights, task.machine)
        self.here = here(task.machine.device)
        self.ahead = Ahead(lambda unit: read_latents(self.store, unit))

    def process(self, unit: Unit, number: int, ahead: Unit | None, poison: Poison) -> Regenerated:
        """Regenerate the rows of a unit. The commit of its part, which knows where they were made, is read at need."""
        try:
            latents = self.ahead.take(unit, ahead)
        except StoreError as error:
            return Regenerated(unit.count, problem=str(error))
        pair = latents.pair
        with fitting(pair.batch_size):
            clean, faults = self.model.move(pair, latents.column("caption"), pair.schedule.depth)
        inexact = [
            f"{unit.source}: key {key}"
            for i, (key, stored, digest) in enumerate(
                zip(latents.column("key"), latents.column("digest"), clean.digests(), strict=True)
            )
            if i in faults or stored != digest
        ]
        if not inexact:
            return Regenerated(unit.count)
        return Regenerated(unit.count, inexact, (place_of(self.store.commit_of(unit.source)), self.here))


@dataclass(frozen=True)
class Verified:
    """How many rows were regenerated, how many of them came out exact, and everything that is wrong with the store.

    Of rows that were inverted elsewhere and are not exact here, EXAMPLES are named and the others counted.
    """

    rows: int
    exact: int
    problems: list[str]


def run_verify(location: str, *, rows: int | None, count: int, gpus: float | None = None) -> Verified:
    """Regenerate stored pairs: every one, or about `rows` of them, spread evenly; on as many GPUs as the job had.

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
    machine = machine_like(Machine(**job["machine"]), gpus, "regenerated")
    task = VerifyTask(location, weights, machine)
    tried = exact = 0
    named, inexact = defaultdict[tuple[Place, Place], list[str]](list), Counter[tuple[Place, Place]]()
    with connected(count, machine), Progress("verify", sum(unit.count for unit in units), "rows") as progress:
        for outcome in Pool(units, VerifyWorker, task, count=count, cpus=machine.threads, gpus=machine.gpus).outcomes():
            if outcome is None:
                progress.advance(0)
            elif outcome.error is not None:
                problems.append(f"{outcome.unit.source}: {outcome.error}")
            else:
                done: Regenerated = outcome.result
                tried += done.rows
                if done.problem is not None:
                    problems.append(done.problem)
                else:
                    exact += done.rows - len(done.inexact)
                if done.places is not None:
                    room = EXAMPLES - len(named[done.places]) if len(set(done.places)) > 1 else None
                    named[done.places] += done.inexact[:room]
                    inexact[done.places] += len(done.inexact)
                progress.advance(done.rows)
    for places, rows_named in named.items():
        why = _why(*places)
        problems += [f"{row}: does not regenerate its starting lattice ({why})" for row in rows_named]
        if more := inexact[places] - len(rows_named):
            problems.append(f"{more} more rows: do not regenerate their starting lattices ({why})")
    return Verified(tried, exact, problems)


def _why(inverted: Place, regenerated: Place) -> str:
    """What there is to say of a row that is not exact, by where it was made."""
    if inverted == regenerated:
        processor = dict(inverted)["processor"]
        return (
            f"inverted on the same kind of processor, {processor}, with the same versions: it was changed since, or "
            "one of the two runs went wrong"
        )
    before, now = told([inverted, regenerated])
    return (
        f"inverted {before}, regenerated {now}: other last bits are to be expected; to look for damage, verify it "
        "where it was inverted"
    )
