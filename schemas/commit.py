"""A commit: the one record that makes a unit's files data."""

from pydantic import BaseModel, ConfigDict

from schemas.rejects import Reject


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class File(Record):
    """One file of the store that the commit names."""

    path: str
    sha256: str
    bytes: int


class Seconds(Record):
    """Where a unit's time went: waiting for input, the model, and encoding and writing its output."""

    read: float
    compute: float
    write: float


class Commit(Record):
    """What became of one unit. input = ok + rejected + filtered holds, or it is not written."""

    unit: str
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
