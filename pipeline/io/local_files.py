"""Write local files so that they survive a power loss.

obstore does not sync its writes to the disk: after a power loss it can leave files of 0 bytes under their final names.
"""

import errno
import os
import secrets
from pathlib import Path

from pipeline.io.errors import StorageError


def write_file(path: Path, data: bytes, *, new: bool) -> None:
    """Write a local file, and make its folder if needed. Once this returns, the file survives a power loss.

    A reader never sees a part of the file.

    Raises:
        FileExistsError: `new` is True and the file exists already. If several writers try, exactly one succeeds.
        StorageError: `new` is True and the filesystem lacks hard links, which it requires.
        OSError: The file cannot be written.
    """
    make_folder(path.parent)
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
        sync_folder(path.parent)  # also if the file exists already, because the caller then relies on it


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


def make_folder(folder: Path) -> None:
    """Make a local folder and its parents, so that they survive a power loss."""
    if not folder.is_dir():
        make_folder(folder.parent)
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
