"""Read, write and list the files of a store."""

import io
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, TypeVar

import obstore
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.io.error_messages import storage_errors
from pipeline.io.errors import AlreadyExists, NotFound, StorageError
from pipeline.io.local_files import write_file
from pipeline.io.locations import local_path
from pipeline.io.storage import Reader, open_prefix
from pipeline.store.errors import REPAIR, StoreError
from pipeline.store.paths import DATA, STAGING
from schemas.commit import File

READ_THREADS = 16  # threads that read small files, because the latency of each request limits their speed
CONFLICT_WAITS = (0.1, 0.3, 1.0, 3.0, 10.0)  # seconds between tries while another writer's request is in progress
_UNESCAPED = re.compile(r"[\w./+-]+", re.ASCII)  # obstore escapes other names, which only some exports have

Content = TypeVar("Content")


class StoreFiles:
    """Read and write the files of one store.

    On a local disk a file survives a power loss once `put`, `put_new` or `stage` has returned. A missing local folder
    is created if `create` is True. Every method raises StorageError if the location cannot be reached, or denies it.

    Raises:
        StoreError: The location is a local file, or a local folder that does not exist.
    """

    def __init__(self, location: str, *, create: bool = False) -> None:
        self._folder = local_path(location)
        if self._folder is not None and os.path.isfile(self._folder):
            raise StoreError(f"{location}: is a file; give a folder")
        if self._folder is not None and not os.path.isdir(self._folder) and not create:
            raise StoreError(f"{location}: there is no such folder; give the `output` of a job that was run")
        # An absolute path, because workers have other working directories.
        self.location = location if self._folder is None else str(self._folder)
        self._objects = open_prefix(self.location)

    def put(self, path: str, data: bytes) -> File:
        """Write a whole file. An existing file is replaced."""
        self._write(path, data, new=False)
        return File(path=path, sha256=sha256(data).hexdigest(), bytes=len(data))

    def put_new(self, path: str, data: bytes) -> bool:
        """Write a file if it does not exist. Return False if it exists with other bytes.

        If several writers try, exactly one succeeds. If a file with the same bytes exists, this returns True, because a
        request is repeated after its answer was lost, and then finds its own file.

        Raises:
            StorageError: Other writers keep a conflict going.
        """
        for wait in (*CONFLICT_WAITS, None):
            try:
                self._write(path, data, new=True)
                return True
            except AlreadyExists:
                try:
                    return self._read(path) == data
                except NotFound:
                    # S3 also answers "conflict" (409) if a file does not exist yet, and may never exist: try again.
                    if wait is not None:
                        time.sleep(wait)
        raise StorageError(f"{self.location}: other writers block {path}, which does not exist yet; run this again")

    def _write(self, path: str, data: bytes, *, new: bool) -> None:
        with storage_errors(self.location):
            if self._folder is not None and _UNESCAPED.fullmatch(path):
                write_file(self._folder / path, data, new=new)
            else:
                obstore.put(self._objects, path, data, mode="create" if new else "overwrite")

    def stage(self, path: str, data: bytes) -> File:
        """Write a file of an attempt to staging/. After a commit names it, `publish` moves it to `path`."""
        return self.put(f"{STAGING}/{path}", data).model_copy(update={"path": path})

    def publish(self, files: Iterable[File]) -> None:
        """Move files that a commit names from staging/ to their folders. Several callers may do it at the same time.

        Raises:
            StoreError: A file is in neither folder.
        """
        for file in files:
            try:
                with storage_errors(self.location):
                    obstore.rename(self._objects, f"{STAGING}/{file.path}", file.path)
            except NotFound as error:
                if not self.has(file.path):
                    raise StoreError(f"{self.location}: {file.path} is committed but missing; {REPAIR}") from error

    def has_staged(self, files: Iterable[File]) -> bool:
        """Return True if all these files are in staging/. Orphans are removed once another attempt did their unit."""
        return all(self.has(f"{STAGING}/{file.path}") for file in files)

    def delete_staged(self, files: Iterable[File]) -> None:
        """Delete the staged files of an attempt that does not commit them."""
        for file in files:
            self.delete(f"{STAGING}/{file.path}")

    def get(self, path: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            StoreError: The file does not exist.
        """
        return self._published_or_staged(path, self._read)

    def get_committed(self, path: str, digest: str | None) -> bytes:
        """Return the bytes of a file that was committed with this sha256.

        Raises:
            StoreError: The file does not exist, or its sha256 differs.
        """
        data = self.get(path)
        if sha256(data).hexdigest() != digest:
            raise StoreError(
                f"{self.location}: {path} is not the committed file (its sha256 differs): it was damaged or replaced; "
                f"{REPAIR}"
            )
        return data

    def open(self, path: str) -> Reader:
        """Open a file to be read in ranges.

        Raises:
            StoreError: The file does not exist.
        """
        base = self.location.rstrip("/")
        return self._published_or_staged(path, lambda path: Reader(f"{base}/{path}"))

    @contextmanager
    def parquet(self, path: str) -> Iterator[pq.ParquetFile]:
        """Open a Parquet file to be read in ranges, without threads, because a Reader has one position.

        Raises:
            StoreError: The file does not exist, or code in the `with` block finds that it is damaged.
        """
        reader = self.open(path)
        try:
            yield pq.ParquetFile(pa.PythonFile(reader, mode="r"), page_checksum_verification=True, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"{self.location}: {path} is damaged ({error}); {_remedy(path)}") from error

    def _published_or_staged(self, path: str, read: Callable[[str], Content]) -> Content:
        """Read a file from its folder or from staging/, because it may not be published yet, or just be moving."""
        for candidate in (path, f"{STAGING}/{path}", path) if path.startswith(DATA) else (path,):
            try:
                return read(candidate)
            except NotFound as error:
                absent = error
        raise StoreError(f"{self.location}: {path} does not exist; {_remedy(path)}") from absent

    def _read(self, path: str) -> bytes:
        with storage_errors(self.location):
            return bytes(obstore.get(self._objects, path).bytes())

    def _find(self, path: str) -> bytes | None:
        """Return the bytes of a file; None if it does not exist, for example because it was deleted after a listing."""
        try:
            return self._read(path)
        except NotFound:
            return None

    def has(self, path: str) -> bool:
        """Return True if a file exists."""
        try:
            with storage_errors(self.location):
                obstore.head(self._objects, path)
        except NotFound:
            return False
        return True

    def names(self, prefix: str, after: str | None = None) -> Iterator[str]:
        """Yield the paths of all files in a folder of the store, in no order; only those that sort `after` a path."""
        return (item["path"] for item in self._list(prefix, after))

    def data_files(self) -> Iterator[tuple[str, int, bool]]:
        """Yield the path of each data file, its size in bytes, and True if it is still in staging/.

        Files in staging/ come first. So a file that is published meanwhile is yielded twice, and no file is missed.
        """
        for item in self._list(STAGING):
            yield item["path"].removeprefix(f"{STAGING}/"), item["size"], True
        for folder in DATA:
            for item in self._list(folder):
                yield item["path"], item["size"], False

    def _list(self, prefix: str, after: str | None = None) -> Iterator[Any]:
        with storage_errors(self.location):
            for batch in obstore.list(self._objects, prefix, offset=after):
                # The consoles of object stores mark a folder by an empty object, whose name has no extension.
                yield from (item for item in batch if item["size"] or "." in item["path"].rpartition("/")[2])

    def delete(self, path: str) -> None:
        """Delete a file. It is not an error if the file does not exist."""
        try:
            with storage_errors(self.location):
                obstore.delete(self._objects, path)
        except NotFound:
            pass

    def get_json(self, path: str) -> dict[str, Any]:
        """Read a JSON file.

        Raises:
            StoreError: The file does not exist, or is not JSON.
        """
        return self._parse_json(path, self.get(path))

    def _parse_json(self, path: str, data: bytes) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(data)
            return record
        except ValueError as error:
            raise StoreError(
                f"{self.location}: {path} is damaged: it is not JSON ({error}); {_remedy(path)}"
            ) from error

    def put_table(self, path: str, table: pa.Table) -> File:
        """Write a table of the plan or of a checkpoint."""
        return self.put(path, table_bytes(table))

    def get_table(self, path: str) -> pa.Table:
        """Read a Parquet file as a table.

        Raises:
            StoreError: The file does not exist, or is damaged.
        """
        return read_table(self.get(path), f"{self.location}: {path}", _remedy(path))


def table_bytes(table: pa.Table) -> bytes:
    """Return a Parquet file of a table. The same rows give the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=1, write_page_checksum=True)
    return buffer.getvalue()


def read_table(data: bytes, name: str, remedy: str = REPAIR) -> pa.Table:
    """Return the rows of a Parquet file, after checking its page checksums.

    Raises:
        StoreError: The file is damaged. The message has its `name`, and the `remedy`.
    """
    try:
        return pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"{name} is damaged ({error}); {remedy}") from error


def _remedy(path: str) -> str:
    """Return what to do about a file that is missing or damaged."""
    if path.startswith(DATA):
        return REPAIR
    if path.startswith(("commits/", "retries/", "ledger/")):
        return "run the job of the store again: edict run SPEC"
    return "restore it, or give another output"
