"""A commit: the record by which the files of a unit belong to a store."""

import re

from pydantic import BaseModel, ConfigDict

from schemas.rejects import Reject


class Record(BaseModel):
    """Base class of the records in a commit: immutable, without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class File(Record):
    """One file of the store that a commit names. `rows` is the number of rows of a Parquet file."""

    path: str
    sha256: str
    bytes: int
    rows: int = 0


class Seconds(Record):
    """The seconds that a unit took: waiting for input, running the model, and encoding and writing its output."""

    read: float
    compute: float
    write: float


class Commit(Record):
    """The result of one unit: its files, its rejects and its counts, with input = ok + rejected + filtered.

    The commit of a `retry` (1, 2, ...) has only the samples that an earlier commit rejected with one of `errors`.

    `job` is the id in job.json, and `plan` the digest of the plan, so that a commit is invalid in another job. The
    `after` of a retry is the attempt whose commit it follows, so that it is invalid after another commit. Stores of
    format 1 do not have these fields.
    """

    job: str | None = None
    plan: str | None = None
    after: str | None = None
    unit: str
    retry: int = 0
    errors: tuple[str, ...] = ()
    attempt: str
    source: str
    input: int
    ok: int
    rejected: int
    filtered: int
    files: tuple[File, ...]
    rejects: tuple[Reject, ...]
    seconds: Seconds
    started: float
    finished: float
    worker: dict[str, str]
    versions: dict[str, str]

    @property
    def number(self) -> int:
        """The number of the attempt that succeeded, from 1; it is 1 if the attempt's name has no number."""
        found = re.match(r"[^-]+-([0-9]+)", self.attempt)
        return int(found[1]) if found else 1

    @property
    def last(self) -> str:
        """The attempt of the last commit that was merged into this one."""
        return self.after if self.retry and self.after else self.attempt


def merged(first: Commit, retry: Commit) -> Commit:
    """Return the commit of a unit after a retry: the results of the retry replace the rejects that were tried again.

    `after` of the result is the attempt of the retry.

    Raises:
        ValueError: The commit is not the next retry, follows another attempt, or has other inputs than those rejects.
    """
    if retry.after is not None and retry.after != first.last:
        raise ValueError(f"the retry of unit {retry.unit} follows attempt {retry.after}, not {first.last}")
    again = [reject for reject in first.rejects if reject.error in retry.errors]
    if len(again) != retry.input or retry.filtered or retry.retry != first.retry + 1:
        raise ValueError(f"the retry of unit {retry.unit} has {retry.input} samples, not {len(again)}")
    rejects = [reject for reject in first.rejects if reject.error not in retry.errors] + list(retry.rejects)
    return first.model_copy(
        update={
            "retry": retry.retry,
            "after": retry.attempt,
            "ok": first.ok + retry.ok,
            "rejected": len(rejects),
            "files": first.files + retry.files,
            "rejects": tuple(sorted(rejects, key=lambda reject: (reject.shard, reject.index, reject.key))),
        }
    )
