"""A store: a folder or an object-store prefix that holds one job's spec, plan, parts and commits.

    job.json                          what is run: the resolved spec, the fingerprint; written once
    plan/shards/<ordinal>.parquet     the samples of each input shard
    plan/units.parquet                the units of work
    parts/<unit>-<attempt>.parquet    rows
    shards/<unit>-<attempt>.tar       edited pictures
    commits/<unit>.json               put if absent: which files are data, and what became of every input
    commits/<unit>+<n>.json           put if absent: what became of its rejects that were tried again
    runs/<run>.jsonl                  what went wrong on the way

A row exists when a commit names its file. Nothing else counts.
"""

import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import JobError
from pipeline.storage import AlreadyThere, NotThere, StorageError, local_path, naming, open_prefix
from schemas.commit import Commit, File, merged

READERS = 16  # commits are small: reading them is bound by latency
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

    def names(self, prefix: str) -> Iterator[str]:
        """The paths of all files under a folder of the store."""
        with naming(self.location):
            for batch in obstore.list(self._objects, prefix):
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
        """A small table of the plan."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", compression_level=1)
        return self.put(path, buffer.getvalue())

    def get_table(self, path: str) -> pa.Table:
        return read_table(self.get(path), f"{self.location}: {path}")

    def job(self) -> dict[str, Any]:
        """job.json. Raises StoreError where this is no store."""
        try:
            return self._json("job.json", self._read("job.json"))
        except NotThere as error:
            raise StoreError(
                f"{self.location}: is no store (it has no job.json); give the `output` of a job that was run"
            ) from error

    def commit(self, commit: Commit) -> bool:
        """Make a unit's files data; False where another attempt was first, whose files then are."""
        if commit.input != commit.ok + commit.rejected + commit.filtered or commit.rejected != len(commit.rejects):
            raise AssertionError(f"unit {commit.unit} does not add up, nothing is committed: {commit!r}")
        name = f"{commit.unit}+{commit.retry:04d}" if commit.retry else commit.unit
        return self.put_new(f"commits/{name}.json", commit.model_dump_json().encode())

    def committed(self) -> set[str]:
        """The units that are done."""
        return {name for name in self._commit_names() if "+" not in name}

    def commits(self) -> dict[str, Commit]:
        """What became of every unit that is done, its retries counted in, in the units' order."""
        names = sorted(self._commit_names())
        commits: dict[str, Commit] = {}
        with ThreadPoolExecutor(READERS) as pool:
            for name, commit in zip(names, pool.map(self._read_commit, names), strict=True):
                try:
                    commits[commit.unit] = merged(commits[commit.unit], commit) if commit.retry else commit
                except (KeyError, ValueError) as error:
                    raise StoreError(f"{self.location}: commits/{name}.json does not fit those before it") from error
        return commits

    def _commit_names(self) -> list[str]:
        return [path.removeprefix("commits/").removesuffix(".json") for path in self.names("commits")]

    def _read_commit(self, name: str) -> Commit:
        try:
            return Commit.model_validate_json(self.get(f"commits/{name}.json"))
        except ValueError as error:
            raise StoreError(f"{self.location}: commits/{name}.json is damaged ({error})") from error

    def sweep(self, commits: dict[str, Commit]) -> int:
        """Remove the files of attempts that lost, so that a plain glob over parts/ is the data; how many went.

        Files of a unit that no commit names are left: their attempt may be about to commit.
        """
        named = {file.path for commit in commits.values() for file in commit.files}
        loose = [
            path
            for folder in ("parts", "shards", "pictures")
            for path in self.names(folder)
            if path not in named and path.partition("/")[2].partition("-")[0] in commits
        ]
        for path in loose:
            self.delete(path)
        return len(loose)


def read_table(data: bytes, name: str) -> pa.Table:
    """A Parquet file's rows, its page checksums verified. Raises StoreError naming the file where it is damaged."""
    try:
        return pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{name} is damaged ({error})") from error
