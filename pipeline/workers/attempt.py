"""One attempt to process a unit: its name, its files, its times and its commit."""

import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.messages import UnitResult
from pipeline.store.errors import StoreError
from pipeline.store.job_record import JobKey
from pipeline.store.paths import attempt_name
from pipeline.store.plan import Unit
from pipeline.store.store import Store
from pipeline.workers.provenance import processor, versions
from schemas.commit import Commit, File, Seconds
from schemas.rejects import Reject

# The model, or the end of a worker, causes the rejects of these stages. The classes in SAMPLE_ERRORS are exceptions,
# because these errors are found before the model is called.
MODEL_STAGES = ("invert", "edit")
SAMPLE_ERRORS = ("WordNotFound", "MaskError", "BadMemberName")


@dataclass
class Attempt:
    """The attempt `number` at a unit of the job with this key. It names the files, measures the time, and commits."""

    store: Store
    unit: Unit
    number: int
    key: JobKey
    started: float = field(default_factory=time.time)
    files: list[File] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "compute": 0.0, "write": 0.0})

    def __post_init__(self) -> None:
        unit, job = self.unit, self.key.id
        self.name = attempt_name(unit.unit, unit.retry, self.number, job, uuid.uuid4().hex[:8])
        self._clock = time.monotonic()

    def add_time(self, activity: str) -> None:
        """Add the time since the last call to an activity: "read", "compute" or "write"."""
        now = time.monotonic()
        self.seconds[activity] += now - self._clock
        self._clock = now

    def write(self, path: str, data: bytes, rows: int = 0) -> None:
        """Write a file of this attempt. Readers ignore it until the attempt is committed."""
        self.files.append(self.store.stage(path, data).model_copy(update={"rows": rows}))

    def commit(self, *, count: int, ok: int, filtered: int, rejects: Sequence[Reject], device: str) -> UnitResult:
        """Write the commit, unless another attempt was first, and publish the files of the commit that exists.

        Raises:
            JobReplaced: The store is now another job's.
        """
        self.add_time("write")
        commit = Commit(
            job=self.key.id,
            plan=self.key.plan,
            after=self.unit.after,
            unit=self.unit.unit,
            retry=self.unit.retry,
            errors=self.unit.errors,
            attempt=self.name,
            source=self.unit.source,
            input=count,
            ok=ok,
            rejected=len(rejects),
            filtered=filtered,
            files=tuple(self.files),
            rejects=tuple(rejects),
            seconds=Seconds(**self.seconds),
            started=self.started,
            finished=time.time(),
            worker={
                "host": socket.gethostname(),
                "pid": str(os.getpid()),
                "device": device,
                "processor": processor(device),
            },
            versions=versions(device),
        )
        try:
            self.store.check_key(self.key, device)
            if self.unit.after is not None:
                self.store.check_follows(self.unit.unit, self.unit.retry, self.unit.after)
            is_first = self.store.has_staged(self.files) and self.store.commit(commit)
        except StoreError:
            self.store.delete_staged(self.files)
            raise
        if not is_first:
            self.store.delete_staged(self.files)
            commit = self.store.read_commit(self.unit.unit, self.unit.retry)
        self.store.publish(commit.files)
        superseded = not is_first and commit.errors != self.unit.errors
        model_errors = Counter(
            reject.error
            for reject in commit.rejects
            if reject.stage in MODEL_STAGES and reject.error not in SAMPLE_ERRORS
        )
        return UnitResult(
            commit.ok, commit.rejected, commit.filtered, self.seconds["compute"], superseded, model_errors
        )
