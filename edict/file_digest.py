"""The sha256 of large files, computed once per node instead of once per process."""

import hashlib
import os
import socket
import tempfile
import time
from pathlib import Path

from filelock import FileLock

LARGE = 1 << 26  # bytes; hashing a smaller file takes less time than finding its record
SETTLED = 2.0  # seconds since a file's last change; until then, another change may leave its times equal


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file in hexadecimal.

    The digest of a large file is stored in a folder of the user, in the directory for temporary files, under the file's
    path, size, inode and times. Processes that need it at the same time wait for the one that computes it.

    Raises:
        OSError: the file cannot be read.
    """
    if file.stat().st_size < LARGE:
        return _computed(file)
    folder = Path(tempfile.gettempdir()) / f"edict-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():  # Another user could have written any record.
        return _computed(file)
    key = _key(file)
    record = folder / hashlib.sha256(key.encode()).hexdigest()
    with FileLock(f"{record}.lock"):
        if record.is_file():
            return record.read_text()
        digest = _computed(file)
        if _key(file) == key and time.time() - max(file.stat().st_mtime, file.stat().st_ctime) > SETTLED:
            unfinished = record.with_suffix(".new")
            unfinished.write_text(digest)
            unfinished.replace(record)
        return digest


def _key(file: Path) -> str:
    """Return a text that identifies the content of a file without reading it."""
    status = file.stat()
    times = status.st_mtime_ns, status.st_ctime_ns
    return repr((socket.gethostname(), str(file.resolve()), status.st_dev, status.st_ino, status.st_size, *times))


def _computed(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
