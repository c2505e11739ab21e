"""The errors of a store."""

from collections.abc import Iterable
from typing import Any

from pipeline.errors import JobError
from schemas.commit import File

REPAIR = "run edict verify --repair, which deletes its commit, and then edict run, which makes it again"
"""The remedy for a committed file that is missing or damaged."""


class StoreError(JobError):
    """A store is missing, damaged, or of another job. The message names it and says what to do."""


class JobReplaced(StoreError):
    """The store was replaced by another job's while this job ran."""


class InvalidCommit(StoreError):
    """The commit of `unit` at `path` is invalid: damaged, of another job, or out of order.

    `files` are the files that it names.
    """

    def __init__(self, location: str, path: str, unit: str, reason: str, files: Iterable[File] = ()) -> None:
        self.path, self.unit, self.reason, self.files = path, unit, reason, tuple(files)
        self.remedy = (
            "edict run deletes it, and edict retry tries these rejects again"
            if path.startswith("retries/")
            else "edict run does the unit again"
        )
        super().__init__(f"{location}: {path} {reason}: {self.remedy}")
        self._args = (location, path, unit, reason, self.files)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the error by its arguments, because a worker may raise it."""
        return type(self), self._args
