"""Verify a store: regenerate latent pairs and compare every integer with the start; check the files of edits."""

import io
import tarfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

from edict.samplers import SAMPLERS
from pipeline.execute.cluster import connected, machine_like
from pipeline.inspect.status import status
from pipeline.messages import ExcludedSamples, Machine
from pipeline.plan.job import Job, inverted_with
from pipeline.plan.units import cut, spread
from pipeline.progress import Progress
from pipeline.store.errors import StoreError
from pipeline.store.files import read_table
from pipeline.store.job_record import JobKey
from pipeline.store.latents import read_latents
from pipeline.store.paths import unit_of
from pipeline.store.plan import Source, Unit, part_sources
from pipeline.store.store import Store
from pipeline.workers.heartbeat import STORAGE, beat
from pipeline.workers.provenance import Environment, differences, environment_of
from schemas.commit import Commit

EXAMPLES = 20  # rows named of those that were inverted in one place and regenerated in another


@dataclass(frozen=True)
class EditVerifyTask:
    """All that a worker needs to verify units of an edit's store: its location, and the key of its job."""

    store: str
    key: JobKey

    def open(self) -> Store:
        """Open the store. Raises JobReplaced if another job's is at this location, as seen from this worker."""
        store = Store(self.store)
        store.check_key(self.key)
        return store


@dataclass(frozen=True)
class VerifyTask(EditVerifyTask):
    """All that a worker needs to verify units of a latent store: the job that made it, and the machine to verify on."""

    inversion: Job


@dataclass(frozen=True)
class VerifiedUnit:
    """What came of a unit: its rows, and those that are not exact, by part and key.

    `places` are where these were inverted, and regenerated; `problem` is why none could be.
    """

    rows: int
    inexact: Sequence[str] = ()
    places: tuple[Environment, Environment] | None = None
    problem: str | None = None


class VerifyWorker:
    """A worker of the pool: regenerates the rows of one unit after the other under their own captions."""

    def __init__(self, task: VerifyTask) -> None:
        from pipeline.workers.base import Prefetcher, check_model, here, load_model

        self.store = task.open()
        made, machine = task.inversion.fingerprint, task.inversion.machine
        self.model = load_model(task.inversion.weights, machine)
        check_model(self.model, made.sampling, made.batch_size)
        self.here = here(machine.device)
        self.ahead = Prefetcher(lambda unit: read_latents(self.store, unit))

    def process(self, unit: Unit, number: int, ahead: Unit | None, excluded: ExcludedSamples) -> VerifiedUnit:
        """Regenerate the rows of a unit. The commit of its part, which knows where they were made, is read at need."""
        from pipeline.workers.base import fitting

        try:
            latents = self.ahead.take(unit, ahead)
        except StoreError as error:
            return VerifiedUnit(unit.count, problem=str(error))
        pair = latents.pair
        with fitting(pair.batch_size, self.model.device):
            clean, faults = self.model.integrate(
                pair, latents.column("caption"), pair.schedule.num_steps, slots=latents.slots
            )
        inexact = [
            f"{unit.source}: key {key}"
            for i, (key, stored, digest) in enumerate(
                zip(latents.column("key"), latents.column("digest"), clean.digests(), strict=True)
            )
            if i in faults or stored != digest
        ]
        if not inexact:
            return VerifiedUnit(unit.count)
        return VerifiedUnit(unit.count, inexact, (environment_of(self.store.commit_of_file(unit.source)), self.here))


class EditVerifyWorker:
    """A worker of the pool that checks the files of an edit, one unit after the other. It loads no model."""

    def __init__(self, task: EditVerifyTask) -> None:
        self.store = task.open()

    def process(self, unit: Unit, number: int, ahead: Unit | None, excluded: ExcludedSamples) -> VerifiedUnit:
        """Check every file that the unit's commits name."""
        try:
            for retry in range(unit.retry + 1):
                check_edited(self.store, self.store.read_commit(unit.unit, retry))
        except StoreError as error:
            return VerifiedUnit(unit.count, problem=str(error))
        return VerifiedUnit(unit.count)


def check_edited(store: Store, commit: Commit) -> None:
    """Check the files of an edit's commit: their digests, and that each row's image is in its tar.

    Raises StoreError, which names the first file that is absent or damaged.
    """
    rows, members = list[dict[str, Any]](), set[tuple[str, str, str]]()
    for file in commit.files:
        beat(STORAGE)
        data, name = store.get_committed(file.path, file.sha256), f"{store.location}: {file.path}"
        if file.path.startswith("parts/"):
            rows += read_table(data, name).select(["key", "shard", "image_sha256"]).to_pylist()
        elif file.path.startswith("shards/"):
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                for member in tar:
                    if (content := tar.extractfile(member)) is not None:
                        digest, key = sha256(content.read()).hexdigest(), member.name.rpartition(".")[0]
                        members.add((PurePosixPath(file.path).name, key, digest))
    wrong = [row["key"] for row in rows if (row["shard"], row["key"], row["image_sha256"]) not in members]
    if wrong or len(rows) != commit.ok:
        missing = f"the image of {wrong[0]!r} is not in its tar" if wrong else f"{len(rows)} rows of {commit.ok}"
        raise StoreError(f"{store.location}: the index of unit {commit.unit} does not fit its images ({missing})")


@dataclass(frozen=True)
class VerifyResult:
    """The rows that were verified, how many of them are exact, and everything that is wrong with the store.

    Of rows that were inverted elsewhere and are not exact here, EXAMPLES are named and the others counted. `damaged`
    lists the units whose files are missing or differ from the committed ones.
    """

    kind: str
    rows: int
    exact: int
    problems: list[str]
    damaged: list[str]


def run_verify(
    location: str, *, rows: int | None, count: int, gpus: float | None = None, repair: bool = False
) -> VerifyResult:
    """Verify all rows of a store, or `rows` of them, spread evenly. The counts of the whole store are always checked.

    Latent pairs are regenerated, by default on as many GPUs as the job had. For an edit, the digests of the index and
    the images are checked. `repair` drops the commits of damaged units, so that the next run makes them again.

    Raises StoreError if there is no store, if it is another model's, or if its sampler is not exact: a row has only the
    digest of its start, so the error of a regeneration is unknown.
    """
    store = Store(location)
    kind = store.job().kind
    found = status(store)
    problems = list(found.problems)
    if found.committed < found.units:
        problems.append(f"{found.units - found.committed} of {found.units} units are not done")
    commits = list(store.commits([]))
    present = {(path, size) for path, size, _ in store.data_files()}
    damaged = {c.unit for c in commits if any((file.path, file.bytes) not in present for file in c.files)}
    sound = [commit for commit in commits if commit.unit not in damaged]
    worker: type
    task: EditVerifyTask
    if kind == "edit":
        machine, worker, task = Machine("cpu", 1, 0), EditVerifyWorker, EditVerifyTask(store.location, store.key())
        units = _spread([_edit_unit(commit) for commit in sound], rows, whole=True)
    else:
        job = inverted_with(store)
        if not SAMPLERS[sampler := job.fingerprint.sampling.name].exact:
            raise StoreError(
                f"{location} was inverted with {sampler}, which is inexact by design: no pair regenerates its start, "
                "so nothing can be verified; `edict status` checks the counts, `edict eval table1` measures its error"
            )
        machine = machine_like(job.machine, gpus, "regenerated")
        task = VerifyTask(store.location, store.key(job.record), replace(job, machine=machine))
        worker = VerifyWorker
        parts = list[Source]()
        for commit in sound:
            try:
                parts += part_sources(store, commit)
            except StoreError as error:
                problems.append(str(error))
                damaged.add(commit.unit)
        units = _spread(cut(parts, job.fingerprint.batch_size, count), rows, whole=False)
    results = _verify(units, worker, task, count, machine) if units else []
    tried = exact = 0
    inexact = defaultdict[tuple[Environment, Environment], list[str]](list)
    for unit, result in results:
        if isinstance(result, str):
            problems.append(f"{unit.source}: {result}")
            continue
        tried += result.rows
        exact += 0 if result.problem else result.rows - len(result.inexact)
        if result.problem:
            problems.append(result.problem)
        if result.places is not None:
            inexact[result.places] += result.inexact
        if result.problem or (result.places is not None and len(set(result.places)) == 1):
            damaged.add(unit.unit if kind == "edit" else unit_of(unit.source))
    for places, names in inexact.items():
        why, shown = _why(*places), len(names) if len(set(places)) == 1 else EXAMPLES
        problems += [f"{row}: does not regenerate its starting lattice ({why})" for row in names[:shown]]
        if more := len(names[shown:]):
            problems.append(f"{more} more rows: do not regenerate their starting lattices ({why})")
    if repair:
        for unit_name in damaged:
            store.delete_commits(unit_name)
        store.remove_orphan_files()
    return VerifyResult(kind, tried, exact, problems, sorted(damaged))


def _edit_unit(commit: Commit) -> Unit:
    """Return a unit of an edit's store to verify. Its `retry` is the number of retries merged in the commit."""
    return Unit(commit.unit, commit.source, 0, 0, commit.ok, 0, None, retry=commit.retry)


def _spread(units: Sequence[Unit], rows: int | None, *, whole: bool) -> list[Unit]:
    """Return the units, or `rows` of their rows, spread evenly. With `whole`, units that have such a row stay whole."""
    units = [unit for unit in units if unit.count]
    if rows is None:
        return units
    shares = spread(units, max(1, rows))
    taken = [unit for unit in units if unit.unit in shares]
    return taken if whole else [unit.slice(0, shares[unit.unit]) for unit in taken]


def _verify(
    units: Sequence[Unit], worker: type, task: EditVerifyTask, count: int, machine: Machine
) -> list[tuple[Unit, VerifiedUnit | str]]:
    """Return each unit with its result, or with the error that prevented it."""
    from pipeline.execute.pool import Pool

    results = list[tuple[Unit, VerifiedUnit | str]]()
    with connected(count, machine), Progress("verify", sum(unit.count for unit in units), "rows") as progress:
        pool = Pool(units, worker, task, count=count, machine=machine)
        for outcome in pool.outcomes():
            if outcome is None:
                progress.advance(0, pool.state()["waits_for"] or "")
            else:
                results.append((outcome.unit, outcome.error or outcome.result))
                progress.advance(outcome.unit.count)
    return results


def _why(inverted: Environment, regenerated: Environment) -> str:
    """What there is to say of a row that is not exact, by where it was made."""
    if inverted == regenerated:
        processor = dict(inverted)["processor"]
        return (
            f"inverted on the same kind of processor, {processor}, with the same versions: it was changed since, or "
            "one of the two runs went wrong"
        )
    before, now = differences([inverted, regenerated])
    return (
        f"inverted {before}, regenerated {now}: other last bits are to be expected; to look for damage, verify it "
        "where it was inverted"
    )
