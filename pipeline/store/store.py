"""A store: a folder or an object-store prefix that holds one job's spec, plan, parts and commits.

    job.json                          the resolved spec, the fingerprint, the job's id; only `machine` can change later
    plan/shards/<digest>.parquet      the samples of each version of an input shard: planned, or indexed by a retry
    plan/rows/<job>/<digest>.parquet  the rows that an edit takes of each part, where the spec chooses or tables
    plan/parts/<job>.parquet          the parts from which these rows were selected
    plan/units.parquet                the units of work; units+0001.parquet and so on have further ones
    staging/<folder>/<file>           files of attempts, until they are committed and moved to their folder
    parts/<attempt>.parquet           rows
    shards/<attempt>.tar              edited images
    pictures/<attempt>.parquet        the rows of the contact sheet
    commits/<unit>.json               put if absent: the names of the unit's files, and the result of every sample
    retries/<unit>+<n>.json           put if absent: the results of rejected samples that were tried again
    ledger/<block>.parquet            copies of the commits of BLOCK units in one file, once all of them exist
    runs/<run>.jsonl, <run>.json      the events of a run, and its present state

A row exists when a commit names its file. An attempt writes to staging/, commits, and then moves its files into their
folder (`publish`), so `parts/*.parquet` never has a row that no commit names. If a run dies between the commit and the
move, the next run moves the files. The ledger only repeats commits, which never change, so that a million of them can
be read quickly.

A commit has the id of its job and the digest of the plan. A commit that is damaged, or of another job, does not count:
`commits` refuses it, and the next run deletes it and does its unit again.
"""

import io
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeVar

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipeline.errors import JobError
from pipeline.io.storage import (
    AlreadyExists,
    NotFound,
    Reader,
    StorageError,
    local_path,
    naming,
    open_prefix,
    sync_folder,
    write_file,
)
from schemas.commit import Commit, File, merged
from schemas.errors import fault
from schemas.fingerprint import Document
from schemas.job import FORMAT, REQUIRED, JobRecord, read_job

READERS = 16  # commits are small: reading them is bound by latency
BLOCK = 4096  # units whose commits share a file of the ledger
ABANDONED = 24 * 3600.0  # seconds; the attempt of an older staged file of an uncommitted unit counts as dead
STAGING = "staging"
DATA = ("parts", "shards", "pictures")  # the folders whose files commits name
FOLDERS = (*DATA, STAGING, "plan", "commits", "retries", "ledger", "runs")
COMMIT = re.compile(r"commits/(\d{8})\.json")
RETRY = re.compile(r"retries/(\d{8})\+(\d{4})\.json")
PLAN = re.compile(r"plan/units(?:\+(\d{4}))?\.parquet")
LEDGER = re.compile(r"ledger/(\d{6})\.parquet")
LEDGER_JOB = b"edict.job"
REPAIR = "edict verify --repair drops its commit, and the next run makes it again"
PARTIAL = re.compile(r"\d{8}(?:\+\d{4})?(?:-\d+-[0-9a-f]+)?\.(?:parquet|tar|json)#\d+")
PLAIN = re.compile(r"[\w./+-]+", re.ASCII)  # names that obstore does not escape: all except those of some exports
CONFLICTS = (0.1, 0.3, 1.0, 3.0, 10.0)  # seconds to wait while another's put is under way


Read = TypeVar("Read")


class StoreError(JobError):
    """A store that is absent, of another job, or damaged; the message names it and says what to do."""


class JobReplaced(StoreError):
    """The store was replaced by another job's while this job ran."""


class CommitRefused(StoreError):
    """A commit of `unit` at `path` that does not count, because it is damaged, of another job, or out of order.

    `files` are the files that it names.
    """

    def __init__(self, location: str, path: str, unit: str, reason: str, files: Iterable[File] = ()) -> None:
        self.path, self.unit, self.reason, self.files = path, unit, reason, tuple(files)
        self.remedy = (
            "edict run discards it, and edict retry tries these rejects again"
            if path.startswith("retries/")
            else "edict run does the unit again"
        )
        super().__init__(f"{location}: {path} {reason}: {self.remedy}")
        self._given = (location, path, unit, reason, self.files)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it by its arguments, because a worker may raise it."""
        return type(self), self._given


@dataclass(frozen=True)
class JobKey:
    """The fields by which a commit names its job: the job's id and the digest of its plan. Format 1 has neither."""

    id: str | None = None
    plan: str | None = None


class Store:
    """Reading and writing the files of one store. Cheap to make; a worker makes its own.

    On a local disk a file survives a power loss once `put`, `put_new` or `stage` has returned.

    Raises StoreError for a local folder that does not exist, unless it is to be made (`create`). Every method raises
    StorageError where the location cannot be reached or does not allow it.
    """

    def __init__(self, location: str, *, create: bool = False) -> None:
        self._folder = local_path(location)
        if self._folder is not None and not os.path.isdir(self._folder) and not create:
            raise StoreError(f"{location}: there is no such folder; give the `output` of a job that was run")
        # absolute, because workers have other working directories
        self.location = location if self._folder is None else str(self._folder)
        self._objects = open_prefix(self.location)

    def put(self, path: str, data: bytes) -> File:
        """Write a file whole, replacing what is there."""
        self._write(path, data, new=False)
        return File(path=path, sha256=sha256(data).hexdigest(), bytes=len(data))

    def stage(self, path: str, data: bytes) -> File:
        """Write a file of an attempt to staging/. Once a commit names it, `publish` moves it to `path`."""
        return self.put(f"{STAGING}/{path}", data).model_copy(update={"path": path})

    def put_new(self, path: str, data: bytes) -> bool:
        """Write a file if there is none of that name; False where there is one of other bytes. One of two writers wins.

        A put is repeated when its answer is lost on the way, and then finds the file that it wrote itself: these very
        bytes are taken for this call's own.
        """
        for wait in (*CONFLICTS, None):
            try:
                self._write(path, data, new=True)
                return True
            except AlreadyExists:
                try:
                    return self._read(path) == data
                except NotFound:
                    # S3 also says "conflict" (409) of a file that is not there yet, and may never be: try again
                    if wait is not None:
                        time.sleep(wait)
        raise StorageError(f"{self.location}: others keep writing {path}, and it is not there; run this again")

    def _write(self, path: str, data: bytes, *, new: bool) -> None:
        with naming(self.location):
            if self._folder is not None and PLAIN.fullmatch(path):
                write_file(self._folder / path, data, new=new)
            else:
                obstore.put(self._objects, path, data, mode="create" if new else "overwrite")

    def get(self, path: str) -> bytes:
        """A file's bytes. Raises StoreError where it is absent."""
        return self._published_or_staged(path, self._read)

    def get_committed(self, path: str, digest: str | None) -> bytes:
        """Return the bytes of a file that was committed with this sha256. Raises StoreError if its sha256 differs."""
        data = self.get(path)
        if sha256(data).hexdigest() != digest:
            raise StoreError(
                f"{self.location}: {path} is not the committed file (its sha256 differs): it was damaged or replaced"
            )
        return data

    def open(self, path: str) -> Reader:
        """Open a file to be read in ranges. Raises StoreError if it is absent."""
        base = self.location.rstrip("/")
        return self._published_or_staged(path, lambda path: Reader(f"{base}/{path}"))

    @contextmanager
    def parquet(self, path: str) -> Iterator[pq.ParquetFile]:
        """Open a Parquet file to be read in ranges, without threads, because a Reader has one position.

        Raises StoreError if the file is absent, or if code in the `with` block finds that it is damaged.
        """
        reader = self.open(path)
        try:
            yield pq.ParquetFile(pa.PythonFile(reader, mode="r"), page_checksum_verification=True, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"{self.location}: {path} is damaged ({error})") from error

    def _published_or_staged(self, path: str, read: Callable[[str], Read]) -> Read:
        """Read a file from its folder or from staging/: it may not be published yet, or be published at this moment."""
        for candidate in (path, f"{STAGING}/{path}", path) if path.startswith(DATA) else (path,):
            try:
                return read(candidate)
            except NotFound as error:
                absent = error
        remedy = f"; {REPAIR}" if path.startswith(DATA) else ""
        raise StoreError(f"{self.location}: has no {path}{remedy}") from absent

    def _read(self, path: str) -> bytes:
        with naming(self.location):
            return bytes(obstore.get(self._objects, path).bytes())

    def has(self, path: str) -> bool:
        try:
            with naming(self.location):
                obstore.head(self._objects, path)
        except NotFound:
            return False
        return True

    def names(self, prefix: str, after: str | None = None) -> Iterator[str]:
        """The paths of all files under a folder of the store, in no order; only those that sort `after` a path."""
        return (item["path"] for item in self._list(prefix, after))

    def data_files(self) -> Iterator[tuple[str, int, bool]]:
        """Yield the path of each file of data, its bytes, and whether it is still in staging/.

        Files in staging/ come first. So a file that is published meanwhile is yielded twice, and no file is missed.
        """
        for item in self._list(STAGING):
            yield item["path"].removeprefix(f"{STAGING}/"), item["size"], True
        for folder in DATA:
            for item in self._list(folder):
                yield item["path"], item["size"], False

    def _list(self, prefix: str, after: str | None = None) -> Iterator[Any]:
        with naming(self.location):
            for batch in obstore.list(self._objects, prefix, offset=after):
                # the consoles of object stores mark a folder with an empty object, whose name ends in a slash
                yield from (item for item in batch if item["size"] or "." in item["path"].rpartition("/")[2])

    def delete(self, path: str) -> None:
        """Delete a file. It is not an error if the file does not exist."""
        try:
            with naming(self.location):
                obstore.delete(self._objects, path)
        except NotFound:
            pass

    def get_json(self, path: str) -> dict[str, Any]:
        return self._json(path, self.get(path))

    def _json(self, path: str, data: bytes) -> dict[str, Any]:
        try:
            return json.loads(data)
        except ValueError as error:
            raise StoreError(f"{self.location}: {path} is damaged: it is not JSON ({error})") from error

    def put_table(self, path: str, table: pa.Table) -> File:
        """Write a table of the plan or the ledger."""
        return self.put(path, table_bytes(table))

    def get_table(self, path: str) -> pa.Table:
        return read_table(self.get(path), f"{self.location}: {path}")

    def job(self) -> JobRecord:
        """Return job.json. Raises StoreError if this is not a store, or a store of a newer version."""
        if (record := self.find_job()) is None:
            raise StoreError(
                f"{self.location}: is not a store (it has no job.json); give the `output` of a job that was run"
            )
        return record

    def find_job(self) -> JobRecord | None:
        """Return job.json, or None if there is none. Raises StoreError if it is damaged, or of a newer version."""
        try:
            job = self._json("job.json", self._read("job.json"))
        except NotFound:
            return None
        if not isinstance(job, dict):
            raise StoreError(
                f"{self.location}: job.json is damaged (it is not a JSON object); restore it, or give another output"
            )
        if (format := job.get("format", 1)) not in range(1, FORMAT + 1):
            raise StoreError(
                f"{self.location}: job.json has format {format!r}, and this version reads formats up to {FORMAT}; "
                "upgrade edict-pipeline to the version that wrote it"
            )
        if (kind := job.get("kind", "edit")) not in ("invert", "edit"):
            raise StoreError(
                f"{self.location}: job.json is of the kind {kind!r}, which this version does not know; use the "
                "version of edict-pipeline that wrote it"
            )
        try:
            return read_job(job)
        except ValueError as error:
            raise StoreError(
                f"{self.location}: job.json is damaged (it {fault(error)}); restore it, or give another output"
            ) from error

    @cached_property
    def fingerprint(self) -> Document:
        """The fingerprint of the store's job as it is in job.json, read once."""
        return self.job().fingerprint

    def key(self, record: JobRecord | None = None) -> JobKey:
        """Return the id of the store's job, from job.json unless it is given, and the digest of its present plan."""
        plans = self._plans()
        return JobKey((record or self.job()).id, plans[-1] if plans else None)

    def check_key(self, key: JobKey, device: str | None = None) -> None:
        """Raise JobReplaced if the store now has another job than the one with this key, or another device."""
        job = self.job()
        if device is not None and job.device != device:
            raise JobReplaced(
                f"{self.location}: another run of this job works on {job.device}, and rows of {device} and "
                f"{job.device} do not mix: nothing more is written; run the job on one of the two"
            )
        if job.id != key.id:
            raise JobReplaced(
                f"{self.location}: another job began here (its id is {job.id}, this job's {key.id}): the store was "
                "removed or replaced while this job ran, and nothing more is written; give each job its own output"
            )

    def _id(self) -> str | None:
        """The job's id, None in format 1. Raises StoreError where this is no store."""
        return self.job().id

    def _plans(self) -> list[str]:
        """Return the digests of the plan: as first written, and after each extension. Raises StoreError if damaged."""
        whole, found = sha256(), list[str]()
        numbers = sorted(int(match[1] or 0) for path in self.names("plan") if (match := PLAN.fullmatch(path)))
        if numbers != list(range(len(numbers))):
            raise StoreError(f"{self.location}: plan/ lacks some of its units*.parquet; put them back")
        for number in numbers:
            path = units_path(number)
            data = self.get(path)
            read_table(data, f"{self.location}: {path}")  # raises for a damaged file
            whole.update(data)
            found.append(whole.hexdigest())
        return found

    def commit(self, commit: Commit) -> bool:
        """Make a unit's files data; False where another attempt was first, whose files then are."""
        if commit.input != commit.ok + commit.rejected + commit.filtered or commit.rejected != len(commit.rejects):
            raise AssertionError(f"unit {commit.unit} does not add up, nothing is committed: {commit!r}")
        path, key = commit_path(commit.unit, commit.retry), JobKey(commit.job)
        while not self.put_new(path, commit.model_dump_json().encode()):
            try:
                self._checked(path, self._read(path), commit.unit, key, [])
                return False
            except CommitRefused as refused:
                self.check_key(key)  # it may be this attempt whose job was replaced
                self.discard([refused])
            except NotFound:
                continue  # another attempt has just deleted it
        return True

    def check_follows(self, unit: str, retry: int, after: str) -> None:
        """Raise StoreError if the commit before a retry is now of another attempt than `after`."""
        if (found := self.commit_at(unit, retry - 1).attempt) != after:
            raise StoreError(
                f"{self.location}: unit {unit} was done again by attempt {found} while its rejects were retried; "
                "run edict retry again for its present rejects"
            )

    def commit_at(self, unit: str, retry: int = 0) -> Commit:
        """Return the commit of a unit, or of a retry of it. Raises StoreError if it is absent or does not count."""
        key = JobKey(self._id())
        if not retry:
            return self._first_commit(unit, key, [])
        path = commit_path(unit, retry)
        return self._checked(path, self.get(path), unit, key, [])

    def _first_commit(self, unit: str, key: JobKey, plans: list[str]) -> Commit:
        """Return the first commit of a unit, from the ledger if its own file is absent or does not count."""
        path, (block, place) = commit_path(unit), divmod(int(unit), BLOCK)
        try:
            return self._checked(path, self.get(path), unit, key, plans)
        except StoreError:
            if (texts := self._ledger(block, key)) is None:
                raise
            return self._checked(path, texts[place].as_py(), unit, key, plans)

    def commit_of(self, path: str) -> Commit:
        """The commit that names a file, a retry's where one wrote it. Raises StoreError where it is not there."""
        unit, _, retry = _attempted(path).partition("+")
        return self.commit_at(unit, int(retry or 0))

    def publish(self, files: Iterable[File]) -> None:
        """Move files that a commit names from staging/ to their folders. Several callers may do it at the same time.

        Raises StoreError if a file is in neither folder.
        """
        for file in files:
            try:
                with naming(self.location):
                    obstore.rename(self._objects, f"{STAGING}/{file.path}", file.path)
            except NotFound as error:
                if not self.has(file.path):
                    raise StoreError(f"{self.location}: {file.path} is committed but missing; {REPAIR}") from error

    def has_staged(self, files: Iterable[File]) -> bool:
        """Return False if a staged file was removed, as `sweep` does once another attempt has done the unit."""
        return all(self.has(f"{STAGING}/{file.path}") for file in files)

    def withdraw(self, files: Iterable[File]) -> None:
        """Delete staged files of an attempt that does not commit them."""
        for file in files:
            self.delete(f"{STAGING}/{file.path}")

    def committed(self, refused: list[CommitRefused] | None = None) -> set[str]:
        """Return the units that are done. `refused` is as in `commits`. The ledger was checked when it was written."""
        key, plans = JobKey(self._id()), self._plans()

        def refused_retries(item: tuple[str, list[str]]) -> list[CommitRefused]:
            unit, paths = item
            found = list[CommitRefused]()
            try:
                first = self._first_commit(unit, key, plans)
            except CommitRefused:
                return []  # refused below, and discarded with its retries
            except StoreError:
                if self.has(commit_path(unit)):
                    raise
                return [CommitRefused(self.location, path, unit, "has no commit before it") for path in paths]
            self._with_retries(first, paths, key, plans, found)
            return found

        with ThreadPoolExecutor(READERS) as pool:
            for error in chain.from_iterable(pool.map(refused_retries, self._retries().items())):
                _refuse(error, refused)
        blocks = self.compacted(key)
        done = {unit for block in blocks for unit in _units(block)}
        return done | {commit.unit for commit in self._loose_commits(blocks, key, plans, refused)}

    def commits(self, refused: list[CommitRefused] | None = None) -> Iterator[Commit]:
        """Yield the commit of every unit that is done, its retries merged; units are in order within a block.

        Commits that do not count are appended to the list `refused`. Without a list, the first one is raised.
        """
        key, plans, retries = JobKey(self._id()), self._plans(), self._retries()
        for commit in self._first_commits(key, plans, refused):
            yield self._with_retries(commit, retries.get(commit.unit, ()), key, plans, refused)

    def _retries(self) -> dict[str, list[str]]:
        """Return the paths of the commits of retries, by unit and in order."""
        found: dict[str, list[str]] = {}
        for path in sorted(self.names("retries")):
            found.setdefault(self._matched(path, RETRY)[1], []).append(path)
        return found

    def _with_retries(
        self,
        commit: Commit,
        paths: Sequence[str],
        key: JobKey,
        plans: list[str],
        refused: list[CommitRefused] | None,
    ) -> Commit:
        """Merge a unit's first commit with its retries. If a retry does not count, no later one counts."""
        for number, path in enumerate(paths):
            files: tuple[File, ...] = ()
            try:
                if (data := self._listed(path)) is None:
                    return commit
                retry = self._checked(path, data, commit.unit, key, plans)
                files = retry.files
                commit = merged(commit, retry)
            except (CommitRefused, ValueError) as error:
                if not isinstance(error, CommitRefused):
                    reason = f"does not fit the commits before it ({error})"
                    error = CommitRefused(self.location, path, commit.unit, reason, files)
                _refuse(error, refused)
                for later in paths[number + 1 :]:
                    reason = "follows a retry that does not count"
                    _refuse(CommitRefused(self.location, later, commit.unit, reason), refused)
                return commit
        return commit

    def compact(self, block: int, key: JobKey) -> None:
        """Write the ledger's file of a block of units that are all done. Any number of writers write the same."""
        paths = [commit_path(unit) for unit in _units(block)]
        with ThreadPoolExecutor(READERS) as pool:
            commits = [data.decode() for data in pool.map(self.get, paths)]
        for path, text, unit in zip(paths, commits, _units(block), strict=True):
            self._checked(path, text, unit, key, [])
        table = pa.table({"commit": commits})
        self.put_table(_ledger_path(block), table.replace_schema_metadata({LEDGER_JOB: key.id or ""}))

    def _first_commits(self, key: JobKey, plans: list[str], refused: list[CommitRefused] | None) -> Iterator[Commit]:
        blocks = []
        for block in self.compacted():
            if (texts := self._ledger(block, key)) is None:
                continue
            blocks.append(block)
            path = _ledger_path(block)
            for unit, text in zip(_units(block), texts.to_pylist(), strict=True):
                try:
                    yield self._checked(path, text, unit, key, plans)
                except CommitRefused as error:
                    _refuse(error, refused)
        yield from self._loose_commits(blocks, key, plans, refused)

    def _loose_commits(
        self, blocks: list[int], key: JobKey, plans: list[str], refused: list[CommitRefused] | None
    ) -> Iterator[Commit]:
        """Yield the commits that are not in these blocks of the ledger."""
        units = sorted(self._loose(blocks))
        with ThreadPoolExecutor(READERS) as pool:
            for first in range(0, len(units), BLOCK):  # read ahead no further: they are many
                some = units[first : first + BLOCK]
                paths = [commit_path(unit) for unit in some]
                for path, data, unit in zip(paths, pool.map(self._listed, paths), some, strict=True):
                    if data is None:
                        continue
                    try:
                        yield self._checked(path, data, unit, key, plans)
                    except CommitRefused as error:
                        _refuse(error, refused)

    def _listed(self, path: str) -> bytes | None:
        """Read a file that was listed. Return None if it was deleted since."""
        try:
            return self._read(path)
        except NotFound:
            return None

    def compacted(self, key: JobKey | None = None) -> list[int]:
        """Return the blocks in the ledger; with a key, only those with an undamaged file of the job with this key."""
        blocks = sorted(int(self._matched(path, LEDGER)[1]) for path in self.names("ledger"))
        return [block for block in blocks if key is None or self._ledger(block, key) is not None]

    def _ledger(self, block: int, key: JobKey) -> pa.ChunkedArray | None:
        """Return the commits in a file of the ledger; None if it is damaged or another job's."""
        try:
            table = self.get_table(_ledger_path(block))
        except StoreError:
            return None
        job = (table.schema.metadata or {}).get(LEDGER_JOB, b"").decode() or None
        whole = job == key.id and len(table) == BLOCK and table.column_names == ["commit"]
        return table["commit"] if whole else None

    def _loose(self, blocks: list[int]) -> Iterator[str]:
        """The units that are done and not in these blocks. Commits before the first gap between them are not listed."""
        compacted = set(blocks)
        whole = next(block for block in count() if block not in compacted)
        after = commit_path(f"{whole * BLOCK - 1:08d}") if whole else None
        for path in self.names("commits", after):
            number = int(self._matched(path, COMMIT)[1])
            if number // BLOCK not in compacted:
                yield f"{number:08d}"

    def _matched(self, path: str, pattern: re.Pattern[str]) -> re.Match[str]:
        if (match := pattern.fullmatch(path)) is None:
            raise StoreError(f"{self.location}: {path} is no file of a store; move it elsewhere")
        return match

    def _checked(self, path: str, data: bytes | str, unit: str, key: JobKey, plans: list[str]) -> Commit:
        """Return the commit in a file. Raises CommitRefused if it does not count.

        Raises StoreError if it is of a newer version, or of none of the `plans`, if any are given.
        """
        try:
            commit = Commit.model_validate_json(data)
        except ValidationError as error:
            if any(problem["type"] == "extra_forbidden" for problem in error.errors()):
                raise StoreError(
                    f"{self.location}: {path} has fields that this version does not know; upgrade edict-pipeline to "
                    "the version that wrote it"
                ) from error
            (first, *_) = error.errors(include_url=False, include_input=False)
            problem = ": ".join([*filter(None, [".".join(map(str, first["loc"]))]), first["msg"]])
            reason = f"is damaged ({len(data)} bytes; {problem})"
            raise CommitRefused(self.location, path, unit, reason) from error
        if commit.unit != unit:
            reason = f"is the commit of unit {commit.unit}, not of unit {unit}"
            raise CommitRefused(self.location, path, unit, reason)
        if commit.job != key.id:
            raise CommitRefused(self.location, path, unit, "was left by another job", commit.files)
        if plans and commit.plan is not None and commit.plan not in plans:
            plans[:] = self._plans()  # it may have been extended meanwhile
            if commit.plan not in plans:
                raise StoreError(
                    f"{self.location}: {path} belongs to another plan of this job; put plan/ back as it was, or give "
                    "another output"
                )
        return commit

    def discard(self, refused: Sequence[CommitRefused]) -> None:
        """Delete commits that do not count, and the files of their attempts, so that their units can be done again.

        With the first commit of a unit, its retries go too, because they follow it.
        """
        first = [commit.unit for commit in refused if COMMIT.fullmatch(commit.path)]
        retries = self._retries() if first else {}
        for unit in first:
            self._delete_retries(retries.get(unit, []))
        for commit in refused:
            if commit.path.startswith("commits/"):
                self.delete(_ledger_path(int(commit.unit) // BLOCK))
            self._delete_commit(commit.path, commit.files)

    def drop(self, unit: str) -> None:
        """Delete the commits of a unit, so that the next run does it again. The next `sweep` removes its files."""
        self._delete_retries(self._retries().get(unit, []))
        self.delete(_ledger_path(int(unit) // BLOCK))
        self.delete(commit_path(unit))

    def _delete_retries(self, paths: Sequence[str]) -> None:
        """Delete the commits of a unit's retries, the last first, and their files."""
        for path in reversed(paths):
            data = self._listed(path)
            try:
                files = () if data is None else Commit.model_validate_json(data).files
            except ValidationError:
                files = ()
            self._delete_commit(path, files)

    def _delete_commit(self, path: str, files: Iterable[File]) -> None:
        """Delete a commit, and those of these files that its own attempt wrote: a copied commit names another's."""
        self.delete(path)
        for file in files:
            if ATTEMPT.fullmatch(file.path) and _attempted(file.path) == _attempted(path):
                self.withdraw([file])
                self.delete(file.path)

    def sweep(self, abandoned: float = ABANDONED) -> int:
        """Publish the files that commits name, remove those of other attempts, and return the number removed.

        Only files with the name of an attempt are removed: of this job, or in staging/ also of an earlier job at this
        location. A staged file of an earlier job, or of a unit that is not done, is kept until it is `abandoned`
        seconds old, because it may still be committed. The files of a unit whose commit does not count stay until the
        unit is done again. In format 1, so do the files of units that are not done, which are not in staging/.
        """
        # Files are listed before the commits: if a file is committed in between, a commit names it.
        written = {item["path"].removeprefix(f"{STAGING}/"): item["last_modified"] for item in self._list(STAGING)}
        paths = [path for folder in DATA for path in self.names(folder)]
        named, done, job, refused = set[str](), set[str](), self._id(), list[CommitRefused]()
        for commit in self.commits(refused):
            done.update(attempted(commit.unit, retry) for retry in range(commit.retry + 1))
            named.update(file.path for file in commit.files)
            self.publish(file for file in commit.files if file.path in written)
        now, doubtful = datetime.now(UTC), {commit.unit for commit in refused}
        lost = [
            f"{STAGING}/{path}"
            for path, when in written.items()
            if path not in named
            and ATTEMPT.fullmatch(path)
            and unit_of(path) not in doubtful
            and ((now - when).total_seconds() >= abandoned or (_is_attempt(path, job) and _attempted(path) in done))
        ]
        lost += [
            path
            for path in paths
            if path not in named
            and _is_attempt(path, job)
            and (job is not None or _attempted(path) in done)
            and unit_of(path) not in doubtful
        ]
        for path in lost:
            self.delete(path)
        if self._folder is not None:
            for folder in DATA:
                sync_folder(self._folder / folder)
            with naming(self.location):
                _remove_remnants(self._folder, now.timestamp() - abandoned)
        return len(lost)


def check_outside_stores(location: str) -> None:
    """Raise StoreError if a location is in one of the folders of a store, because files would mix there."""
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


def _remove_remnants(folder: Path, before: float) -> None:
    """Remove the files of interrupted local writes, which `write_file` did not rename to their final names."""
    for name in (*(f"{STAGING}/{data}" for data in DATA), "commits", "retries"):
        for file in (folder / name).glob("*.*#*"):
            with suppress(FileNotFoundError):
                if PARTIAL.fullmatch(file.name) and file.is_file() and file.stat().st_mtime < before:
                    file.unlink()


def _refuse(error: CommitRefused, refused: list[CommitRefused] | None) -> None:
    if refused is None:
        raise error
    refused.append(error)


def table_bytes(table: pa.Table) -> bytes:
    """A Parquet file of a table; the same for the same rows."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=1, write_page_checksum=True)
    return buffer.getvalue()


def read_table(data: bytes, name: str) -> pa.Table:
    """A Parquet file's rows, its page checksums verified. Raises StoreError naming the file where it is damaged."""
    try:
        return pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"{name} is damaged ({error})") from error


ATTEMPT = re.compile(r"(?:parts|shards|pictures)/\d{8}(?:\+\d{4})?-\d+-(?:([0-9a-f]{8})?[0-9a-f]{8})\.(?:parquet|tar)")
"""Path of a file that an attempt wrote. Since format 2 it has the first 8 digits of the job's id."""


def attempt_name(unit: str, retry: int, number: int, job: str | None, random: str) -> str:
    """Return the name of an attempt and its files. It is unique, also if several drivers run the same job."""
    return f"{attempted(unit, retry)}-{number}-{(job or '')[:8]}{random}"


def _is_attempt(path: str, job: str | None) -> bool:
    """Return True if an attempt of this job wrote the file."""
    match = ATTEMPT.fullmatch(path)
    return match is not None and match[1] == (job and job[:8])


def attempted(unit: str, retry: int) -> str:
    """What an attempt is at: a unit, or the so-manieth retry of its rejects. Its files and its commit begin with it."""
    return f"{unit}+{retry:04d}" if retry else unit


def commit_path(unit: str, retry: int = 0) -> str:
    return f"{'retries' if retry else 'commits'}/{attempted(unit, retry)}.json"


def _units(block: int) -> list[str]:
    return [f"{number:08d}" for number in range(block * BLOCK, (block + 1) * BLOCK)]


def _attempted(path: str) -> str:
    """Return the unit and the retry, as in `attempted`, from the path of an attempt's file or of a commit."""
    return path.partition("/")[2].partition("-")[0].removesuffix(".json")


def unit_of(path: str) -> str:
    """Return the unit whose attempt wrote a file."""
    return _attempted(path).partition("+")[0]


def units_path(extension: int) -> str:
    """Return the path of the plan's first units (`extension` 0), or of those of its extension 1, 2, ..."""
    return f"plan/units+{extension:04d}.parquet" if extension else "plan/units.parquet"


def _ledger_path(block: int) -> str:
    return f"ledger/{block:06d}.parquet"
