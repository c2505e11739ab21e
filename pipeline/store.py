"""A store: a folder or an object-store prefix that holds one job's spec, plan, parts and commits.

    job.json                          what is run: the resolved spec, the fingerprint; written once
    plan/shards/<ordinal>.parquet     the samples of each input shard
    plan/units.parquet                the units of work
    parts/<unit>-<attempt>.parquet    rows
    shards/<unit>-<attempt>.tar       edited pictures
    commits/<unit>.json               put if absent: which files are data, and what became of every input

A row exists when a commit names its file. Nothing else counts.
"""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import AlreadyExistsError, NotFoundError

from pipeline.errors import JobError
from pipeline.storage import local_path, open_prefix
from schemas.commit import Commit, File

READERS = 16  # commits are small: reading them is bound by latency


class StoreError(JobError):
    """A store that is absent, of another job, or damaged; the message names it and says what to do."""


class Store:
    """Reading and writing the files of one store. Cheap to make; a worker makes its own.

    Raises StoreError for a local folder that does not exist, unless it is to be made (`create`).
    """

    def __init__(self, location: str, *, create: bool = False) -> None:
        path = local_path(location)
        if path is not None and not path.is_dir() and not create:
            raise StoreError(f"{location}: there is no such folder; give the `output` of a job that was run")
        self.location = location
        self._objects = open_prefix(location)

    def put(self, path: str, data: bytes) -> File:
        """Write a file whole, replacing what is there."""
        obstore.put(self._objects, path, data)
        return File(path=path, sha256=sha256(data).hexdigest(), bytes=len(data))

    def put_new(self, path: str, data: bytes) -> bool:
        """Write a file if there is none of that name; False where there is one. Atomic: one of two writers wins."""
        try:
            obstore.put(self._objects, path, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def get(self, path: str) -> bytes:
        """A file's bytes. Raises StoreError where it is absent."""
        try:
            return bytes(obstore.get(self._objects, path).bytes())
        except (NotFoundError, FileNotFoundError) as error:
            raise StoreError(f"{self.location}: has no {path}") from error

    def has(self, path: str) -> bool:
        try:
            obstore.head(self._objects, path)
        except (NotFoundError, FileNotFoundError):
            return False
        return True

    def names(self, prefix: str) -> Iterator[str]:
        """The paths of all files under a folder of the store."""
        for batch in obstore.list(self._objects, prefix):
            yield from (item["path"] for item in batch)

    def delete(self, path: str) -> None:
        obstore.delete(self._objects, path)

    def get_json(self, path: str) -> dict[str, Any]:
        data = self.get(path)
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
        if not self.has("job.json"):
            raise StoreError(
                f"{self.location}: is no store (it has no job.json); give the `output` of a job that was run"
            )
        return self.get_json("job.json")

    def commit(self, commit: Commit) -> bool:
        """Make a unit's files data; False where another attempt was first, whose files then are."""
        if commit.input != commit.ok + commit.rejected + commit.filtered or commit.rejected != len(commit.rejects):
            raise AssertionError(f"unit {commit.unit} does not add up, nothing is committed: {commit!r}")
        return self.put_new(f"commits/{commit.unit}.json", commit.model_dump_json().encode())

    def committed(self) -> set[str]:
        """The units that are done."""
        return {name.removeprefix("commits/").removesuffix(".json") for name in self.names("commits")}

    def commits(self) -> dict[str, Commit]:
        """Every commit, by unit, in the units' order."""
        units = sorted(self.committed())
        with ThreadPoolExecutor(READERS) as pool:
            return dict(zip(units, pool.map(self._read_commit, units), strict=True))

    def _read_commit(self, unit: str) -> Commit:
        try:
            return Commit.model_validate_json(self.get(f"commits/{unit}.json"))
        except ValueError as error:
            raise StoreError(f"{self.location}: commits/{unit}.json is damaged ({error})") from error

    def sweep(self, commits: dict[str, Commit]) -> int:
        """Remove the files that no commit names, so that a plain glob over parts/ is the data; how many went."""
        named = {file.path for commit in commits.values() for file in commit.files}
        loose = [path for folder in ("parts", "shards", "pictures") for path in self.names(folder) if path not in named]
        for path in loose:
            self.delete(path)
        return len(loose)


def read_table(data: bytes, name: str) -> pa.Table:
    """A Parquet file's rows, its page checksums verified. Raises StoreError naming the file where it is damaged."""
    try:
        return pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{name} is damaged ({error})") from error
