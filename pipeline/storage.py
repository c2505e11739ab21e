"""Folders and objects, on this machine or behind a URL, through obstore."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast
from urllib.parse import quote, unquote

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from pipeline.errors import JobError

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "http", "https")
WINDOW = 1 << 20  # bytes that a Reader asks for at once: on an object store a request costs about as much as 1 MiB


class StorageError(JobError):
    """A location that cannot be opened, read or understood; the message names it."""


@dataclass(frozen=True)
class Head:
    """An object's size in bytes and its ETag (None where the server gives none): together, its version."""

    size: int
    etag: str | None


def open_prefix(location: str) -> ObjectStore:
    """A store rooted at a folder or prefix. A local folder is created, with its parents.

    Raises:
        StorageError: the location cannot be understood, or its folder cannot be made.
    """
    path = local_path(location)
    if path is None:
        return _remote(_encoded(location))
    with _naming(location):
        path.mkdir(parents=True, exist_ok=True)
        return LocalStore(prefix=path)


def open_file(location: str) -> tuple[ObjectStore, str]:
    """The store and the path in it of one object, which is not looked up yet.

    Raises:
        StorageError: the location names no object, or its local folder does not exist.
    """
    folder, _, name = location.rpartition("/")
    path = local_path(location)
    if path is not None:
        if not name:
            raise StorageError(f"{location}: names a folder, not a file")
        if not path.parent.is_dir():
            raise StorageError(f"{location}: the folder {path.parent} does not exist")
        return _local(str(path.parent)), path.name
    if not name or folder.endswith("/"):
        raise StorageError(f"{location}: names no object; give the bucket and the path in it")
    return _remote(_encoded(location).rpartition("/")[0]), unquote(name) if location.startswith("http") else name


def head(location: str) -> Head:
    """An object's size and ETag, by one request that transfers no content.

    Raises:
        StorageError: there is no such object, or it cannot be reached.
    """
    store, path = open_file(location)
    with _naming(location):
        meta = obstore.head(store, path)
    return Head(meta["size"], meta["e_tag"])


def read_range(location: str, start: int, end: int) -> tuple[bytes, Head]:
    """Bytes [start, end) of an object, less where it ends earlier, and the version they come from: one request.

    Raises:
        StorageError: there is no such object, it cannot be reached, or the range is empty or starts beyond its end.
    """
    store, path = open_file(location)
    with _naming(location):
        result = obstore.get(store, path, options={"range": (start, end)})
        return bytes(result.bytes()), Head(result.meta["size"], result.meta["e_tag"])


class Reader(io.BufferedIOBase):
    """One object as a seekable file, of which a window is held in memory.

    obstore's own reader drops its buffer at every seek, which costs a request for every tar header. A read never
    asks for more than the object has, whatever length a damaged header claims.

    Raises:
        StorageError: the object cannot be read, or is replaced while it is being read.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self.head = head(location)
        self._position = 0
        self._start = 0
        self._window = b""

    def readable(self) -> bool:
        """True; pyarrow asks."""
        return True

    def seekable(self) -> bool:
        """True; pyarrow asks."""
        return True

    def tell(self) -> int:
        """The position in bytes from the start."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position, which may lie beyond the end: nothing is read there."""
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.head.size}[whence]
        if position < 0:
            raise ValueError(f"{self.location}: cannot seek to byte {position}")
        self._position = position
        return position

    def read(self, size: int | None = -1, /) -> bytes:
        """The next `size` bytes, fewer only at the end of the object; the rest of it for -1."""
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


def local_path(location: str) -> Path | None:
    """The absolute path that a plain path or a file:// URL names; None for any other URL.

    Raises:
        StorageError: an empty location, or a URL of an unknown kind.
    """
    if not location:
        raise StorageError("an empty location: give a path or a URL")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", location)
    if scheme is None:
        # Not Path.resolve(): a link to a shard keeps the name that the job spec gave it.
        return Path(os.path.abspath(location))
    if scheme[1] == "file":
        return Path(os.path.abspath(unquote(location.removeprefix("file://"))))
    if scheme[1] not in SCHEMES:
        raise StorageError(f"{location}: {scheme[1]}:// is not supported; use a path, file:// or one of {SCHEMES}")
    return None


def _encoded(location: str) -> str:
    """The location as a URL proper: keys of object stores are written as they are, http URLs are encoded already."""
    if not location.startswith("http"):
        scheme, _, rest = location.partition("://")
        # "@" stays: abfss://container@account... has it in the host.
        return f"{scheme}://{quote(rest, safe='/@')}"
    if "?" in location or "#" in location:
        raise StorageError(f"{location}: a URL with a query cannot be read in ranges; use s3://, gs:// or az://")
    return location


@lru_cache(maxsize=256)
def _local(folder: str) -> LocalStore:
    return LocalStore(prefix=folder)


@lru_cache(maxsize=256)
def _remote(url: str) -> ObjectStore:
    """A store behind a URL, kept: a new one would fetch credentials and open connections again."""
    with _naming(url):
        # obstore gives up after 30 s by default, in which a slow line does not bring one unit's images.
        options = {"timeout": "10m", "allow_http": url.startswith("http://")}
        return cast(ObjectStore, from_url(url, client_options=options))  # type: ignore[call-overload]


@contextmanager
def _naming(location: str) -> Iterator[None]:
    """Turn what obstore and the file system raise into a StorageError that names the location."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"{location}: does not exist") from error
    except (BaseError, OSError, ValueError) as error:
        # obstore appends its Rust structures, many lines long.
        raise StorageError(f"{location}: {str(error).partition('Debug source:')[0].strip()}") from error
