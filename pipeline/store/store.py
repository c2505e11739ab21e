"""A store: a folder or an object-store prefix with the spec, the plan, the parts and the commits of one job.

    job.json                          the resolved spec, the fingerprint, the job's id; only `machine` can change later
    plan/shards/<digest>.parquet      the samples of each version of an input shard, written by the plan or a retry
    plan/rows/<job>/<digest>.parquet  the rows of each part that an edit takes, if its spec selects rows or has tables
    plan/parts/<job>.parquet          the parts from which these rows were selected
    plan/units.parquet                the units of work; units+0001.parquet and so on have further ones
    staging/<folder>/<file>           files of attempts, until they are committed and moved to their folder
    parts/<attempt>.parquet           rows
    shards/<attempt>.tar              edited images
    pictures/<attempt>.parquet        the rows of the contact sheet
    commits/<unit>.json               written once: the names of the unit's files, and the result of every sample
    retries/<unit>+<n>.json           written once: the results of rejected samples that were tried again
    ledger/<block>.parquet            checkpoints: copies of the commits of BLOCK_SIZE units in one file
    runs/<run>.jsonl, <run>.json      the events of a run, and its present state

A row exists if a commit names its file. An attempt writes to staging/, commits, and then moves its files into their
folder (`publish`), so every row in `parts/*.parquet` has a commit. If a run dies between the commit and the move, the
next run moves the files. A checkpoint is a copy of commits, which never change, so that a million of them can be read
quickly.

A commit has the id of its job and the digest of the plan. A commit that is damaged, or of another job, is invalid. The
next run deletes it and does its unit again.
"""

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pipeline.io.error_messages import storage_errors
from pipeline.io.errors import NotFound
from pipeline.io.local_files import sync_folder
from pipeline.io.locations import local_path
from pipeline.io.storage import Reader
from pipeline.store.commits import CommitStore
from pipeline.store.errors import InvalidCommit, StoreError
from pipeline.store.paths import (
    ATTEMPT,
    DATA,
    FOLDERS,
    PARTIAL_FILE,
    STAGING,
    is_attempt_of,
    unit_of,
    unit_retry,
    unit_retry_of,
)
from schemas.job import REQUIRED

MAX_ATTEMPT = 24 * 3600.0
"""Seconds after which the attempt of a staged file counts as dead, if its unit is not committed."""


class Store(CommitStore):
    """The files, the job and the commits of one store. A worker opens its own, because that is cheap."""

    def remove_orphan_files(self, max_age: float = MAX_ATTEMPT) -> int:
        """Publish the files that commits name, delete those of other attempts, and return the number deleted.

        Only files with the name of an attempt are deleted: of this job, or in staging/ also of an earlier job at this
        location. A staged file of an earlier job, or of a unit without a commit, is kept until it is `max_age` seconds
        old, because it may still be committed. The files of a unit whose commit is invalid stay until the unit is done
        again. In format 1, so do the files of units without a commit, which are not in staging/.
        """
        # Files are listed before the commits: if a file is committed in between, a commit names it.
        staged = {item["path"].removeprefix(f"{STAGING}/"): item["last_modified"] for item in self._list(STAGING)}
        published = [path for folder in DATA for path in self.names(folder)]
        named, done, job, invalid = set[str](), set[str](), self.job().id, list[InvalidCommit]()
        for commit in self.commits(invalid):
            done.update(unit_retry(commit.unit, retry) for retry in range(commit.retry + 1))
            named.update(file.path for file in commit.files)
            self.publish(file for file in commit.files if file.path in staged)
        now, doubtful = datetime.now(UTC), {commit.unit for commit in invalid}
        orphans = [
            f"{STAGING}/{path}"
            for path, when in staged.items()
            if path not in named
            and ATTEMPT.fullmatch(path)
            and unit_of(path) not in doubtful
            and ((now - when).total_seconds() >= max_age or (is_attempt_of(path, job) and unit_retry_of(path) in done))
        ]
        orphans += [
            path
            for path in published
            if path not in named
            and is_attempt_of(path, job)
            and (job is not None or unit_retry_of(path) in done)
            and unit_of(path) not in doubtful
        ]
        for path in orphans:
            self.delete(path)
        if self._folder is not None:
            for folder in DATA:
                sync_folder(self._folder / folder)
            with storage_errors(self.location):
                _remove_partial_files(self._folder, now.timestamp() - max_age)
        return len(orphans)


def check_outside_stores(location: str) -> None:
    """Check that a location is not in one of the folders of a store, because files would mix there.

    Raises:
        StoreError: The location is inside a store.
    """
    steps = str(local_path(location) or location.rstrip("/")).split("/")
    for number, step in enumerate(steps):
        if step not in FOLDERS or not (store := "/".join(steps[:number])) or store.endswith(":/"):
            continue
        try:
            job = json.loads(Reader(f"{store}/job.json").read())
        except (NotFound, ValueError):
            continue
        if not isinstance(job, dict) or not job.keys() >= REQUIRED:  # a spec can have this name too
            continue
        raise StoreError(f"{location}: is inside the store {store}, in its folder {step}/; give another location")


def _remove_partial_files(folder: Path, before: float) -> None:
    """Remove the files of interrupted local writes, which `write_file` did not rename to their final names."""
    for name in (*(f"{STAGING}/{data}" for data in DATA), "commits", "retries"):
        for file in (folder / name).glob("*.*#*"):
            with suppress(FileNotFoundError):
                if PARTIAL_FILE.fullmatch(file.name) and file.is_file() and file.stat().st_mtime < before:
                    file.unlink()
