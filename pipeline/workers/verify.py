"""Verify units: regenerate the noise pairs of a latent store, and check the files of an edit."""

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

from pipeline.messages import ExcludedSamples
from pipeline.plan.invert_task import InvertTask
from pipeline.store.errors import REPAIR, StoreError
from pipeline.store.files import read_table
from pipeline.store.job_record import JobKey
from pipeline.store.latents import read_latents
from pipeline.store.plan import Unit
from pipeline.store.store import Store
from pipeline.workers.heartbeat import STORAGE, beat
from pipeline.workers.prefetcher import Prefetcher
from pipeline.workers.provenance import Environment, environment_here, environment_of
from schemas.commit import Commit


@dataclass(frozen=True)
class EditVerifyTask:
    """Everything that a worker needs to verify units of an edit's store: its location, and the key of its job."""

    store: str
    key: JobKey

    def open(self) -> Store:
        """Open the store.

        Raises:
            JobReplaced: This worker finds the store of another job at this location.
        """
        store = Store(self.store)
        store.check_key(self.key)
        return store


@dataclass(frozen=True)
class VerifyTask(EditVerifyTask):
    """Everything that a worker needs to verify units of a latent store. `inversion` has the machine that verifies."""

    inversion: InvertTask


@dataclass(frozen=True)
class VerifiedUnit:
    """The result of a unit: its number of rows, and the rows that are not exact, by part and key.

    `environments` are those in which these rows were inverted and regenerated. `problem` is the reason why no row could
    be verified.
    """

    rows: int
    inexact: Sequence[str] = ()
    environments: tuple[Environment, Environment] | None = None
    problem: str | None = None


class VerifyWorker:
    """A worker of the pool: it regenerates the rows of one unit after the other under their own captions."""

    def __init__(self, task: VerifyTask) -> None:
        from pipeline.workers.model import check_model, load_model

        self.store = task.open()
        fingerprint, machine = task.inversion.fingerprint, task.inversion.machine
        self.model = load_model(task.inversion.weights, machine)
        check_model(self.model, fingerprint.sampling, fingerprint.batch_size)
        self.environment = environment_here(machine.device)
        self.prefetcher = Prefetcher(lambda unit: read_latents(self.store, unit))

    def process(self, unit: Unit, number: int, next_unit: Unit | None, excluded: ExcludedSamples) -> VerifiedUnit:
        """Regenerate the rows of a unit, and compare them with their starts."""
        from pipeline.workers.model import batch_errors

        try:
            latents = self.prefetcher.take(unit, next_unit)
        except StoreError as error:
            return VerifiedUnit(unit.count, problem=str(error))
        pair = latents.pair
        with batch_errors(pair.batch_size, self.model.device):
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
        # Only now is the commit needed, for the environment in which the rows were inverted.
        return VerifiedUnit(
            unit.count, inexact, (environment_of(self.store.commit_of_file(unit.source)), self.environment)
        )


class EditVerifyWorker:
    """A worker of the pool that checks the files of an edit, one unit after the other. It loads no model."""

    def __init__(self, task: EditVerifyTask) -> None:
        self.store = task.open()

    def process(self, unit: Unit, number: int, next_unit: Unit | None, excluded: ExcludedSamples) -> VerifiedUnit:
        """Check every file that the unit's commits name."""
        try:
            for retry in range(unit.retry + 1):
                check_edited(self.store, self.store.read_commit(unit.unit, retry))
        except StoreError as error:
            return VerifiedUnit(unit.count, problem=str(error))
        return VerifiedUnit(unit.count)


def check_edited(store: Store, commit: Commit) -> None:
    """Check the files of an edit's commit: their digests, and that the image of each row is in its tar.

    Raises:
        StoreError: A file is absent or damaged. The message names the first such file.
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
    missing = [row["key"] for row in rows if (row["shard"], row["key"], row["image_sha256"]) not in members]
    if missing or len(rows) != commit.ok:
        reason = f"the image of {missing[0]!r} is not in its tar" if missing else f"{len(rows)} rows of {commit.ok}"
        raise StoreError(
            f"{store.location}: the index of unit {commit.unit} does not fit its images ({reason}); {REPAIR}"
        )
