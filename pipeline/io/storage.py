"""Open and read files and objects: local ones and object stores by obstore, web servers by pipeline.io.web."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

from pipeline.io.credentials import s3_provider
from pipeline.io.error_messages import storage_errors
from pipeline.io.errors import BadName, FileTooLarge, NotFound, StorageError
from pipeline.io.local_files import make_folder
from pipeline.io.locations import cloud_of, local_path, object_url, web_url
from pipeline.io.web import fetch
from schemas.locations import without_secrets

WINDOW = 1 << 20  # bytes that a Reader requests at once: a request to an object store costs about as much as 1 MiB
MAX_REQUEST = 64 << 20  # bytes of a request that reads several ranges
# A request is repeated for about a minute after an error of the server (5xx, 429) or of the connection, because the
# work that waits for it took GPU hours. A repeated request keeps its signature, which is valid for 5 minutes.
RETRIES = {
    "max_retries": 10,
    "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=30), "base": 3},
    "retry_timeout": timedelta(minutes=4),
}
_MAX_NAME = {"s3": 1024, "gs": 1024}  # bytes; the server answers a HEAD of a longer name without a reason


@dataclass(frozen=True)
class Head:
    """The version of an object: its size in bytes and its ETag, which is None if the server gives none."""

    size: int
    etag: str | None


def open_prefix(location: str) -> ObjectStore:
    """Return an obstore store for a folder or prefix. A local folder is created, with its parents.

    Raises:
        StorageError: The location is invalid or a web server, has no credentials, or cannot be created.
    """
    path = local_path(location)
    if path is None:
        if location.startswith("http"):
            raise StorageError(f"{location}: a web server can only be read; give a folder or s3://, gs:// or az://")
        with storage_errors(location):
            return _remote(object_url(location))
    with storage_errors(location):
        make_folder(path)
        return LocalStore(prefix=path)


def open_file(location: str) -> tuple[ObjectStore, str]:
    """Return the obstore store and the path in it for one object. No request is made.

    Raises:
        BadName: The location has no object name, or one that is too long.
        NotFound: The local folder does not exist.
        StorageError: The location is invalid, or has no credentials.
    """
    folder, _, name = location.rpartition("/")
    path = local_path(location)
    if path is not None:
        if not name:
            raise BadName(f"{location}: is the name of a folder; give a file")
        if not os.path.isdir(path.parent):  # Path.is_dir raises if the name is too long
            raise NotFound(f"{location}: the folder {path.parent} does not exist")
        return _local(str(path.parent)), path.name
    if not name or folder.endswith("/"):
        raise BadName(f"{location}: has no object name; give the bucket and the path in it")
    limit = _MAX_NAME.get(cloud_of(location) or "")
    if limit and len(location.split("/", 3)[3].encode()) > limit:
        raise BadName(f"{location}: the name is longer than the {limit} bytes that the storage allows; shorten it")
    with storage_errors(location):
        return _remote(object_url(location).rpartition("/")[0]), name


def head(location: str) -> Head:
    """Return an object's size and ETag, by a request that transfers no content.

    Raises:
        NotFound: The object does not exist.
        StorageError: The object cannot be reached.
    """
    if (url := web_url(location)) is not None:
        with storage_errors(location):
            _, size, etag = fetch(url)
            return Head(size, etag)
    store, path = open_file(location)
    with storage_errors(location):
        try:
            meta = obstore.head(store, path)
        except FileNotFoundError:
            # Only the answer to a GET has a body, which shows whether the bucket or the object is missing.
            meta = obstore.get(store, path).meta
    return Head(meta["size"], meta["e_tag"])


def read_range(location: str, start: int, end: int) -> tuple[bytes, Head]:
    """Read the bytes [start, end) of an object in one request. Bytes beyond its end are left out.

    Returns:
        The bytes, and the version of the object.

    Raises:
        NotFound: The object does not exist.
        StorageError: The object cannot be reached, or the range is empty or begins beyond its end.
    """
    if (url := web_url(location)) is not None:
        with storage_errors(location):
            if not start < end:
                raise ValueError(f"the range from byte {start} to {end} is empty")
            data, size, etag = fetch(url, start, end)
            return data, Head(size, etag)
    store, path = open_file(location)
    with storage_errors(location):
        result = obstore.get(store, path, options={"range": (start, end)})
        return bytes(result.bytes()), Head(result.meta["size"], result.meta["e_tag"])


def read_file(location: str, limit: int) -> bytes:
    """Return the bytes of an object that has at most `limit` bytes.

    Raises:
        FileTooLarge: The object is larger.
        NotFound: The object does not exist.
        StorageError: The object cannot be reached.
    """
    reader = Reader(location)
    if reader.head.size > limit:
        raise FileTooLarge(f"{location}: has {reader.head.size:,} bytes; the limit is {limit:,}: make it smaller")
    return reader.read()


def read_ranges(location: str, ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[bytes, Head]]:
    """Yield the bytes of ranges [start, end) of an object in order, each with the version of the object.

    Ranges less than WINDOW apart share a request. It has at most MAX_REQUEST bytes, or one longer range. Bytes beyond
    the object's end are left out. (obstore's get_ranges gives no ETags, and keeps all ranges in memory at once.)

    Raises:
        NotFound: The object does not exist.
        StorageError: The object cannot be reached, or a request begins beyond its end.
    """
    first = 0
    while first < len(ranges):
        start, end = ranges[first]
        last = first + 1
        while last < len(ranges) and 0 <= ranges[last][0] - end < WINDOW and ranges[last][1] - start <= MAX_REQUEST:
            end = ranges[last][1]
            last += 1
        data, found = read_range(location, start, end)
        for begin, stop in ranges[first:last]:
            yield data[begin - start : stop - start], found
        first = last


class Reader(io.BufferedIOBase):
    """One object as a seekable file, with a window of it in memory.

    obstore's own reader drops its buffer at every seek, which costs a request for every tar header. A read never
    requests more than the object has, even if a damaged header claims a huge length.

    Raises:
        StorageError: The object cannot be read, or is replaced while it is being read.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self.head = head(location)
        self._position = 0
        self._start = 0
        self._window = b""

    def readable(self) -> bool:
        """Return True, as pyarrow requires."""
        return True

    def seekable(self) -> bool:
        """Return True, as pyarrow requires."""
        return True

    def tell(self) -> int:
        """Return the position in bytes from the start."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position, which may be beyond the end. Nothing is read."""
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.head.size}[whence]
        if position < 0:
            raise ValueError(f"{self.location}: cannot seek to byte {position}")
        self._position = position
        return position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, fewer only at the end of the object; all the rest if `size` is -1 or None."""
        rest = max(self.head.size - self._position, 0)
        start, length = self._position, rest if size is None or size < 0 else min(size, rest)
        if length == 0:
            return b""
        if start < self._start or start + length > self._start + len(self._window):
            self._window, found = read_range(self.location, start, start + max(length, WINDOW))
            self._start = start
            if found != self.head:
                raise StorageError(f"{self.location}: was replaced while it was being read; run this again")
        self._position = start + length
        at = start - self._start
        return self._window[at : at + length]


@lru_cache(maxsize=256)
def _local(folder: str) -> LocalStore:
    return LocalStore(prefix=folder)


@lru_cache(maxsize=256)
def _remote(url: str) -> ObjectStore:
    """Return the obstore store of a URL. It is cached, because a new one fetches credentials and opens connections.

    Raises:
        ValueError: The environment has no valid credentials or endpoint.
        Exception: Any exception of obstore.
    """
    # By default obstore gives up after 30 s, in which a slow connection cannot transfer the images of one unit.
    client: dict[str, Any] = {"timeout": "10m"}
    options: dict[str, Any] = {"client_options": client, "retry_config": RETRIES}
    if cloud_of(url) == "s3":
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
        endpoint = next((os.environ[name] for name in names if os.environ.get(name)), "https://")
        if not endpoint.startswith(("http://", "https://")):
            raise ValueError(f"AWS_ENDPOINT_URL is {without_secrets(endpoint)!r}; write http:// or https:// first")
        client["allow_http"] = endpoint.startswith("http://")
        options["credential_provider"] = s3_provider()
    return from_url(url, **options)
