"""The sha256 of large files, computed once per node instead of once per process."""

import hashlib
import os
import re
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

MIN_CACHED_BYTES = 1 << 26
"""The size from which digests are cached. A smaller file is hashed faster than its record is found."""
SETTLING_SECONDS = 2.0
"""The time after a file's last change in which another change can leave its times equal."""


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file in hexadecimal.

    The digest of a large file is cached in the user's folder in the directory for temporary files. The key is the path,
    size, inode and times of the file. Processes that need a digest at the same time wait for the one that computes it.
    If the folder cannot be used, the digest is computed again.

    Raises:
        OSError: The file cannot be read.
    """
    if file.stat().st_size < MIN_CACHED_BYTES or (folder := _folder()) is None:
        return _compute(file)
    key = _key(file)
    record = folder / hashlib.sha256(key.encode()).hexdigest()
    with _locked(record):
        if (known := _read(record)) is not None:
            return known
        digest = _compute(file)
        if _key(file) == key and time.time() - max(file.stat().st_mtime, file.stat().st_ctime) > SETTLING_SECONDS:
            with suppress(OSError):  # a full disk, for example
                unfinished = record.with_suffix(".new")
                unfinished.write_text(digest)
                unfinished.replace(record)
        return digest


def _folder() -> Path | None:
    """Return the folder of the cached digests, after creating it if needed; None if other users can write there."""
    folder = Path(tempfile.gettempdir()) / f"edict-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return folder if private else None


@contextmanager
def _locked(record: Path) -> Iterator[None]:
    """Lock a record within the block. If it cannot be locked, the digest may be computed twice."""
    lock = FileLock(f"{record}.lock")
    with suppress(OSError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _read(record: Path) -> str | None:
    """Return the digest in a record, or None if there is none or it is damaged."""
    try:
        digest = record.read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return digest if re.fullmatch("[0-9a-f]{64}", digest) else None


def _key(file: Path) -> str:
    """Return a text that identifies the content of a file without reading it."""
    status = file.stat()
    times = status.st_mtime_ns, status.st_ctime_ns
    return repr((socket.gethostname(), str(file.resolve()), status.st_dev, status.st_ino, status.st_size, *times))


def _compute(file: Path) -> str:
    """Return the sha256 of a file by reading it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
