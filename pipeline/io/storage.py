"""Read and write files and objects through obstore, and read those of web servers through pipeline.io.web."""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, ObjectStore, from_url

from pipeline.errors import JobError
from pipeline.io.credentials import PLACES, s3_provider
from pipeline.io.web import fetch
from schemas.locations import without_secrets

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "http", "https")
WINDOW = 1 << 20  # bytes that a Reader asks for at once: on an object store a request costs about as much as 1 MiB
READ = 64 << 20  # the most bytes of a request that reads several ranges

# What a store or a shard is asked is tried again after an error of the server (5xx, 429) or of the line, for about a
# minute in all: the work that waits on it cost GPU hours. A signature, which a repeated request keeps, is good for 5.
RETRIES = {
    "max_retries": 10,
    "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=30), "base": 3},
    "retry_timeout": timedelta(minutes=4),
}

_KINDS = {"s3": "s3", "s3a": "s3", "gs": "gs"} | dict.fromkeys(("az", "azure", "adl", "abfs", "abfss"), "az")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_REFUSED = ("AuthenticationFailed", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch")
# Messages of obstore, operating systems and web servers for an impossible name. Its causes: a segment that is empty,
# "." or too long; a control character; a file where the name has a folder; a URL that is too long.
_BAD_NAMES = r"illegal character sequence|empty path segment|File name too long|Not a directory|status code: 414"
_LONGEST_NAME = {"s3": 1024, "gs": 1024}  # bytes; a HEAD of a longer name is an error without a reason
# what obstore says where it found nothing and asked the machine it runs on
_NO_CREDENTIALS = r"http://(169\.254\.|metadata\.google|[^/]+/latest/(api|meta-data)/)|Missing (AccessKeyId|SecretAcc)"

_SYSTEM = {  # errors of an operating system, and what to do
    errno.ENOSPC: "no space is left on the device; free space there, or give another location",
    errno.EDQUOT: "the disk quota is used up; free space there, or give another location",
    errno.EROFS: "the filesystem is read-only; mount it writable, or give another location",
    errno.EFBIG: "the file is larger than the limit of the process or of the filesystem; raise `ulimit -f`",
    errno.EMFILE: "too many files are open; raise `ulimit -n`",
    errno.ENFILE: "too many files are open on this machine; raise fs.file-max",
    errno.EACCES: "permission is denied; change the permissions, or give another location",
    errno.EPERM: "the operation is not permitted; change the permissions, or give another location",
    errno.EIO: "the device reports an input/output error; check it",
    errno.EISDIR: "a folder has the name of a file to be written; move it elsewhere",
    errno.ENOTDIR: "a part of the path is a file, not a folder; give another location",
}
_NO_INODES = "no inodes are left on the filesystem (df -i); remove files there, or give another location"
_HINTS = {
    "redirect without LOCATION": "the bucket is in another region; set AWS_REGION to that one",
    "Account must be specified": "names no storage account; set AZURE_STORAGE_ACCOUNT_NAME",
}


class StorageError(JobError):
    """A location that cannot be opened, read or understood; the message names it."""


class NotFound(StorageError):
    """There is no such object (a bucket that is not there is another error)."""


class FileTooLarge(StorageError):
    """The object has more bytes than may be read."""


class BadName(NotFound):
    """The storage cannot have an object of this name, so there is none; the message gives the reason."""


class AlreadyExists(StorageError):
    """There is such an object, or one is being written just now."""


@dataclass(frozen=True)
class Head:
    """An object's size in bytes and its ETag (None where the server gives none): together, its version."""

    size: int
    etag: str | None


def open_prefix(location: str) -> ObjectStore:
    """A store rooted at a folder or prefix. A local folder is created, with its parents.

    Raises:
        StorageError: the location cannot be understood, is a web server, has no credentials, or cannot be made.
    """
    path = local_path(location)
    if path is None:
        if location.startswith("http"):
            raise StorageError(f"{location}: a web server can only be read; give a folder or s3://, gs:// or az://")
        with naming(location):
            return _remote(_encoded(location))
    with naming(location):
        _make_folder(path)
        return LocalStore(prefix=path)


def open_file(location: str) -> tuple[ObjectStore, str]:
    """The store and the path in it of one object, which is not looked up yet.

    Raises:
        BadName: the location names no object.
        NotThere: its local folder does not exist.
        StorageError: it cannot be understood, or has no credentials.
    """
    folder, _, name = location.rpartition("/")
    path = local_path(location)
    if path is not None:
        if not name:
            raise BadName(f"{location}: names a folder, not a file; give a file")
        if not os.path.isdir(path.parent):  # Path.is_dir raises where the name is too long
            raise NotFound(f"{location}: the folder {path.parent} does not exist")
        return _local(str(path.parent)), path.name
    if not name or folder.endswith("/"):
        raise BadName(f"{location}: names no object; give the bucket and the path in it")
    most = _LONGEST_NAME.get(_kind(location) or "")
    if most and len(location.split("/", 3)[3].encode()) > most:
        raise BadName(f"{location}: the name is longer than the {most} bytes that the storage allows; shorten it")
    with naming(location):
        return _remote(_encoded(location).rpartition("/")[0]), name


def write_file(path: Path, data: bytes, *, new: bool) -> None:
    """Write a local file, and make its folder if needed. Once this returns, the file survives a power loss.

    No reader sees a part of the file. obstore's own writes are not synced to the disk: after a power loss they can
    leave files of 0 bytes under their final names.

    Raises:
        FileExistsError: the file has to be `new`, and exists already. If several writers try, exactly one succeeds.
        StorageError: the file has to be `new`, and the filesystem lacks the hard links that this requires.
        OSError: the file cannot be written.
    """
    _make_folder(path.parent)
    partial = path.with_name(f"{path.name}#{secrets.randbelow(10**15)}")  # obstore does not list such names
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if new:
            _link(partial, path)
        else:
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
        sync_folder(path.parent)  # also if the file exists already: the caller then relies on it


def _link(partial: Path, path: Path) -> None:
    try:
        path.hardlink_to(partial)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        raise StorageError(
            f"{path}: the filesystem has no hard links, without which two workers could both commit one unit; give an "
            "output on another filesystem, or an object store"
        ) from error


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a local folder survive a power loss. Do nothing if the folder does not exist."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def head(location: str) -> Head:
    """An object's size and ETag, by a request that transfers no content.

    Raises:
        StorageError: there is no such object, or it cannot be reached.
    """
    if (url := _web_url(location)) is not None:
        with naming(location):
            _, size, etag = fetch(url)
            return Head(size, etag)
    store, path = open_file(location)
    with naming(location):
        try:
            meta = obstore.head(store, path)
        except FileNotFoundError:
            # the answer to a HEAD has no body, which would tell a bucket that is not there from an object
            meta = obstore.get(store, path).meta
    return Head(meta["size"], meta["e_tag"])


def read_range(location: str, start: int, end: int) -> tuple[bytes, Head]:
    """Bytes [start, end) of an object, less where it ends earlier, and the version they come from: one request.

    Raises:
        StorageError: there is no such object, it cannot be reached, or the range is empty or starts beyond its end.
    """
    if (url := _web_url(location)) is not None:
        with naming(location):
            if not start < end:
                raise ValueError(f"the range from byte {start} to {end} is empty")
            data, size, etag = fetch(url, start, end)
            return data, Head(size, etag)
    store, path = open_file(location)
    with naming(location):
        result = obstore.get(store, path, options={"range": (start, end)})
        return bytes(result.bytes()), Head(result.meta["size"], result.meta["e_tag"])


def read_file(location: str, most: int) -> bytes:
    """Return the bytes of an object that has at most `most` bytes.

    Raises:
        TooLong: the object is larger.
        StorageError: there is no such object, or it cannot be reached.
    """
    reader = Reader(location)
    if reader.head.size > most:
        raise FileTooLarge(f"{location}: has {reader.head.size:,} bytes; the limit is {most:,}: make it smaller")
    return reader.read()


def read_ranges(location: str, ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[bytes, Head]]:
    """Yield the bytes of ranges [start, end) of an object in order, each with the version of the object.

    Ranges less than WINDOW apart share a request of at most READ bytes, or of one range if that is longer. (obstore's
    get_ranges does nearly the same, but gives no ETags and has all ranges in memory at once.) Bytes beyond the object's
    end are left out.

    Raises:
        StorageError: there is no such object, it cannot be reached, or a request starts beyond its end.
    """
    first = 0
    while first < len(ranges):
        start, end = ranges[first]
        last = first + 1
        while last < len(ranges) and 0 <= ranges[last][0] - end < WINDOW and ranges[last][1] - start <= READ:
            end = ranges[last][1]
            last += 1
        data, found = read_range(location, start, end)
        for begin, stop in ranges[first:last]:
            yield data[begin - start : stop - start], found
        first = last


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
        StorageError: an empty location, a URL of an unknown kind, or one with a secret in it.
    """
    if not location:
        raise StorageError("an empty location: give a path or a URL")
    if (shown := without_secrets(location)) != location:
        raise StorageError(f"{shown}: has credentials or a query in it; give the bare URL, credentials go elsewhere")
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
    """Return the URL of a location in an object store, whose key is written without percent-encoding."""
    scheme, _, rest = location.partition("://")
    # "@" stays: abfss://container@account... has it in the host.
    return f"{scheme}://{quote(rest, safe='/@')}"


def _web_url(location: str) -> str | None:
    """Return a location on a web server, which is percent-encoded already; None for others. Raises StorageError."""
    if local_path(location) is not None or not location.startswith(("http://", "https://")):
        return None
    if "#" in location:
        raise StorageError(f"{location}: a URL with a # names a part of a page; write %23 for one in a name")
    return location


@lru_cache(maxsize=256)
def _local(folder: str) -> LocalStore:
    return LocalStore(prefix=folder)


@lru_cache(maxsize=256)
def _remote(url: str) -> ObjectStore:
    """A store behind a URL, kept: a new one would fetch credentials and open connections again.

    Raises what obstore raises, and ValueError where the environment does not do.
    """
    # obstore gives up after 30 s by default, in which a slow line does not bring one unit's images.
    client: dict[str, Any] = {"timeout": "10m"}
    options: dict[str, Any] = {"client_options": client, "retry_config": RETRIES}
    if _kind(url) == "s3":
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
        endpoint = next((os.environ[name] for name in names if os.environ.get(name)), "https://")
        if not endpoint.startswith(("http://", "https://")):
            raise ValueError(f"AWS_ENDPOINT_URL is {without_secrets(endpoint)!r}; write http:// or https:// first")
        client["allow_http"] = endpoint.startswith("http://")
        options["credential_provider"] = s3_provider()
    return from_url(url, **options)


def _kind(location: str) -> str | None:
    """Which cloud a URL belongs to, by its scheme."""
    return _KINDS.get(location.partition("://")[0])


@contextmanager
def naming(location: str) -> Iterator[None]:
    """Turn what obstore and the file system raise into a StorageError: one line that names the location.

    Raises:
        NotThere, BadName, AlreadyThere, StorageError
    """
    try:
        yield
    except (BaseError, OSError, ValueError, NotImplementedError) as error:
        # Not "from error": what the server said may hold a key or a token, and a traceback would print it.
        raise _explained(location, error) from None


def _explained(location: str, error: Exception) -> StorageError:
    # obstore appends its Rust structures, many lines long, and before them what the server said.
    text = str(error).partition("Debug source:")[0].strip()
    told = re.search(r"<Code>(\w+)</Code>", text)
    text = re.sub(r"(status code: \d+[^:]*):.*", r"\1", text, flags=re.DOTALL)
    status = text.partition("status code: ")[2]
    code = told[1] if told else status
    places = PLACES.get(_kind(location) or "")
    if code in _NO_BUCKET:
        return StorageError(f"{location}: the bucket does not exist ({code}); create it, or mend its name")
    if found := re.search(_BAD_NAMES, text):
        return BadName(f"{location}: the storage does not allow this name ({found[0]}); rename it")
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{location}: does not exist")
    if isinstance(error, AlreadyExistsError | FileExistsError):
        return AlreadyExists(f"{location}: exists already, or is being written just now")
    if places and re.search(_NO_CREDENTIALS, text):
        return StorageError(f"{location}: no credentials found; give them by {places}")
    if places and (isinstance(error, UnauthenticatedError) or code in _REFUSED):
        why = code or without_secrets(text.partition("credential provider: ")[2])
        return StorageError(f"{location}: the credentials are not accepted ({why}); renew them: {places}")
    if places and (isinstance(error, PermissionDeniedError) or status.startswith("403")):
        return StorageError(f"{location}: access denied ({code}); check the credentials ({places}) and what they allow")
    if reason := _refused_by_system(location, error, text):
        return StorageError(f"{location}: {reason}")
    hint = next((hint for words, hint in _HINTS.items() if words in text), without_secrets(text))
    return StorageError(f"{location}: {hint}")


def _refused_by_system(location: str, error: Exception, text: str) -> str | None:
    """Return the reason of an operating system's error in words; None for other errors."""
    path, in_rust = local_path(location), re.search(r"\(os error (\d+)\)", text)
    number = error.errno if isinstance(error, OSError) else int(in_rust[1]) if in_rust else None
    if path is None or number is None:
        return None
    if number == errno.ENOSPC:
        found = os.statvfs(next(folder for folder in (path, *path.parents) if folder.exists()))
        if found.f_files and found.f_favail < 2:  # one may be free: that of the temporary file, which is deleted
            return _NO_INODES
    return _SYSTEM.get(number)
