"""A commit: the one record that makes a unit's files data."""

import re

from pydantic import BaseModel, ConfigDict

from schemas.rejects import Reject


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class File(Record):
    """One file of the store that the commit names; `rows` of a Parquet file."""

    path: str
    sha256: str
    bytes: int
    rows: int = 0


class Seconds(Record):
    """Where a unit's time went: waiting for input, the model, and encoding and writing its output."""

    read: float
    compute: float
    write: float


class Commit(Record):
    """What became of one unit. input = ok + rejected + filtered holds, or it is not written.

    The commit of the first, second ... `retry` tells of those rejects of the commits before it whose error is among
    `errors`, and of nothing else.

    `job` is the id in job.json, and `plan` the digest of the plan, so that a commit never counts for another job. The
    `after` of a retry is the attempt whose commit it follows, so that it never counts after another commit. Stores of
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
    """A unit after a retry: its first commit with the rejects that were tried again replaced by what became of them.

    `after` of the result is the attempt of the retry. Raises ValueError if the commit is not the next retry, follows
    another attempt, or has other inputs than those rejects.
    """
    if retry.after is not None and retry.after != first.last:
        raise ValueError(f"the retry of unit {retry.unit} follows attempt {retry.after} and not {first.last}")
    again = [reject for reject in first.rejects if reject.error in retry.errors]
    if len(again) != retry.input or retry.filtered or retry.retry != first.retry + 1:
        raise ValueError(f"the retry of unit {retry.unit} had {retry.input} samples and not {len(again)}")
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
