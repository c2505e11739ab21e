"""A store: a folder or an object-store prefix that holds one job's spec, plan, parts and commits.

    job.json                          what is run: the resolved spec, the fingerprint; written once, but for the machine
    plan/shards/<digest>.parquet      the samples of each input shard
    plan/rows/<job>/<digest>.parquet  the rows that an edit takes of each part, where the spec chooses or tables
    plan/units.parquet                the units of work
    parts/<unit>-<attempt>.parquet    rows
    shards/<unit>-<attempt>.tar       edited pictures
    commits/<unit>.json               put if absent: which files are data, and what became of every input
    retries/<unit>+<n>.json           put if absent: what became of its rejects that were tried again
    ledger/<block>.parquet            the commits of BLOCK units in one file, once they are all there
    runs/<run>.jsonl, <run>.json      what went wrong on the way, and what goes on

A row exists when a commit names its file. Nothing else counts; the ledger only repeats commits, which never change, so
that a million of them can be read.
"""

import io
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import count
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import JobError
from pipeline.storage import AlreadyThere, NotThere, StorageError, local_path, naming, open_prefix
from schemas.commit import Commit, File, merged

READERS = 16  # commits are small: reading them is bound by latency
BLOCK = 4096  # units whose commits share a file of the ledger
COMMIT = re.compile(r"commits/(\d{8})\.json")
LEDGER = re.compile(r"ledger/(\d{6})\.parquet")
JOB = {"kind", "spec", "fingerprint", "machine"}  # what job.json has at the least
CONFLICTS = (0.1, 0.3, 1.0, 3.0, 10.0)  # seconds to wait while another's put is under way


class StoreError(JobError):
    """A store that is absent, of another job, or damaged; the message names it and says what to do."""


class Store:
    """Reading and writing the files of one store. Cheap to make; a worker makes its own.

    Raises StoreError for a local folder that does not exist, unless it is to be made (`create`). Every method raises
    StorageError where the location cannot be reached or does not allow it.
    """

    def __init__(self, location: str, *, create: bool = False) -> None:
        path = local_path(location)
        if path is not None and not path.is_dir() and not create:
            raise StoreError(f"{location}: there is no such folder; give the `output` of a job that was run")
        self.location = location
        self._objects = open_prefix(location)

    def put(self, path: str, data: bytes) -> File:
        """Write a file whole, replacing what is there."""
        with naming(self.location):
            obstore.put(self._objects, path, data)
        return File(path=path, sha256=sha256(data).hexdigest(), bytes=len(data))

    def put_new(self, path: str, data: bytes) -> bool:
        """Write a file if there is none of that name; False where there is one of other bytes. One of two writers wins.

        A put is repeated when its answer is lost on the way, and then finds the file that it wrote itself: these very
        bytes are taken for this call's own.
        """
        for wait in (*CONFLICTS, None):
            try:
                with naming(self.location):
                    obstore.put(self._objects, path, data, mode="create")
                return True
            except AlreadyThere:
                try:
                    return self._read(path) == data
                except NotThere:
                    # S3 also says "conflict" (409) of a file that is not there yet, and may never be: try again
                    if wait is not None:
                        time.sleep(wait)
        raise StorageError(f"{self.location}: others keep writing {path}, and it is not there; run this again")

    def get(self, path: str) -> bytes:
        """A file's bytes. Raises StoreError where it is absent."""
        try:
            return self._read(path)
        except NotThere as error:
            raise StoreError(f"{self.location}: has no {path}") from error

    def _read(self, path: str) -> bytes:
        with naming(self.location):
            return bytes(obstore.get(self._objects, path).bytes())

    def has(self, path: str) -> bool:
        try:
            with naming(self.location):
                obstore.head(self._objects, path)
        except NotThere:
            return False
        return True

    def names(self, prefix: str, after: str | None = None) -> Iterator[str]:
        """The paths of all files under a folder of the store, in no order; only those that sort `after` a path."""
        with naming(self.location):
            for batch in obstore.list(self._objects, prefix, offset=after):
                yield from (item["path"] for item in batch)

    def delete(self, path: str) -> None:
        with naming(self.location):
            obstore.delete(self._objects, path)

    def get_json(self, path: str) -> dict[str, Any]:
        return self._json(path, self.get(path))

    def _json(self, path: str, data: bytes) -> dict[str, Any]:
        try:
            return json.loads(data)
        except ValueError as error:
            raise StoreError(f"{self.location}: {path} is damaged, no JSON ({error})") from error

    def put_table(self, path: str, table: pa.Table) -> File:
        """Write a table of the plan or the ledger."""
        return self.put(path, table_bytes(table))

    def get_table(self, path: str) -> pa.Table:
        return read_table(self.get(path), f"{self.location}: {path}")

    def job(self) -> dict[str, Any]:
        """job.json. Raises StoreError where this is no store."""
        try:
            job = self._json("job.json", self._read("job.json"))
        except NotThere as error:
            raise StoreError(
                f"{self.location}: is no store (it has no job.json); give the `output` of a job that was run"
            ) from error
        if not isinstance(job, dict) or (missing := JOB - job.keys()):
            lacks = "it is no JSON object" if not isinstance(job, dict) else f"it lacks {', '.join(sorted(missing))}"
            raise StoreError(f"{self.location}: job.json is damaged ({lacks})")
        return job

    def commit(self, commit: Commit) -> bool:
        """Make a unit's files data; False where another attempt was first, whose files then are."""
        if commit.input != commit.ok + commit.rejected + commit.filtered or commit.rejected != len(commit.rejects):
            raise AssertionError(f"unit {commit.unit} does not add up, nothing is committed: {commit!r}")
        return self.put_new(_commit_path(attempted(commit.unit, commit.retry)), commit.model_dump_json().encode())

    def commit_of(self, path: str) -> Commit:
        """The commit that names a file, a retry's where one wrote it. Raises StoreError where it is not there."""
        name = _attempted(path)
        commit = _commit_path(name)
        return self._commit(commit, self.get(commit), name.partition("+")[0])

    def committed(self) -> set[str]:
        """The units that are done."""
        blocks = self.settled()
        return {unit for block in blocks for unit in _units(block)} | set(self._loose(blocks))

    def commits(self) -> Iterator[Commit]:
        """What became of every unit that is done, its retries counted in; units in order within a block."""
        retries: dict[str, list[str]] = {}
        for path in sorted(self.names("retries")):
            retries.setdefault(path.removeprefix("retries/").partition("+")[0], []).append(path)
        for commit in self._first_commits():
            for path in retries.get(commit.unit, ()):
                try:
                    commit = merged(commit, self._commit(path, self.get(path), commit.unit))
                except ValueError as error:
                    raise StoreError(f"{self.location}: {path} does not fit the commits before it") from error
            yield commit

    def settle(self, block: int) -> None:
        """Write the ledger's file of a block of units that are all done. Any number of writers write the same."""
        paths = [_commit_path(unit) for unit in _units(block)]
        with ThreadPoolExecutor(READERS) as pool:
            commits = [data.decode() for data in pool.map(self.get, paths)]
        self.put_table(_ledger_path(block), pa.table({"commit": commits}))

    def _first_commits(self) -> Iterator[Commit]:
        blocks = self.settled()
        for block in blocks:
            path = _ledger_path(block)
            texts = self.get_table(path)["commit"].to_pylist()
            if len(texts) != BLOCK:
                raise StoreError(f"{self.location}: {path} is damaged (it has {len(texts)} commits, and not {BLOCK})")
            for unit, text in zip(_units(block), texts, strict=True):
                yield self._commit(path, text, unit)
        units = sorted(self._loose(blocks))
        with ThreadPoolExecutor(READERS) as pool:
            for first in range(0, len(units), BLOCK):  # read ahead no further: they are many
                some = units[first : first + BLOCK]
                paths = [_commit_path(unit) for unit in some]
                for path, data, unit in zip(paths, pool.map(self.get, paths), some, strict=True):
                    yield self._commit(path, data, unit)

    def settled(self) -> list[int]:
        """The blocks that are in the ledger."""
        return sorted(self._number(path, LEDGER) for path in self.names("ledger"))

    def _loose(self, blocks: list[int]) -> Iterator[str]:
        """The units that are done and not in these blocks. Commits before the first gap between them are not listed."""
        settled = set(blocks)
        whole = next(block for block in count() if block not in settled)
        after = _commit_path(f"{whole * BLOCK - 1:08d}") if whole else None
        for path in self.names("commits", after):
            number = self._number(path, COMMIT)
            if number // BLOCK not in settled:
                yield f"{number:08d}"

    def _number(self, path: str, pattern: re.Pattern[str]) -> int:
        if (match := pattern.fullmatch(path)) is None:
            raise StoreError(f"{self.location}: {path} is no file of a store; move it elsewhere")
        return int(match[1])

    def _commit(self, path: str, data: bytes | str, unit: str) -> Commit:
        try:
            commit = Commit.model_validate_json(data)
        except ValueError as error:
            raise StoreError(f"{self.location}: {path} is damaged ({error})") from error
        if commit.unit != unit:
            raise StoreError(f"{self.location}: {path} is the commit of unit {commit.unit}, and not of {unit}")
        return commit

    def sweep(self) -> int:
        """Remove the files of attempts that lost, so that a plain glob over parts/ is the data; how many went.

        Files of a unit that is not done are left: their attempt may be about to commit. (Listed first, then held
        against the commits: what is committed in between is named.)
        """
        paths = [path for folder in ("parts", "shards", "pictures") for path in self.names(folder)]
        named, done = set[str](), set[str]()
        for commit in self.commits():
            done.update(attempted(commit.unit, retry) for retry in range(commit.retry + 1))
            named.update(file.path for file in commit.files)
        lost = [path for path in paths if path not in named and _attempted(path) in done]
        for path in lost:
            self.delete(path)
        return len(lost)


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


def attempted(unit: str, retry: int) -> str:
    """What an attempt is at: a unit, or the so-manieth retry of its rejects. Its files and its commit begin with it."""
    return f"{unit}+{retry:04d}" if retry else unit


def _units(block: int) -> list[str]:
    return [f"{number:08d}" for number in range(block * BLOCK, (block + 1) * BLOCK)]


def _attempted(path: str) -> str:
    """What the attempt was at that wrote a file."""
    return path.partition("/")[2].partition("-")[0]


def _commit_path(name: str) -> str:
    return f"{'retries' if '+' in name else 'commits'}/{name}.json"


def _ledger_path(block: int) -> str:
    return f"ledger/{block:06d}.parquet"
