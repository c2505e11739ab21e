"""Read the members of a tar strictly, without trusting its headers, and split their names into key and extension."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Self

MAX_LONG_NAME = 1 << 20
"""The largest long name or extended header that is read, in bytes."""

# webdataset's own rule for meta names, and the hidden files of macOS and others
_IGNORED = re.compile(r"__[^/]*__(/|$)|(.*/)?(__MACOSX(/|$)|\.[^/]*$)", re.DOTALL)
_DOT_FOLDERS = re.compile(r"(?:^|(?<=/))(?:\./+)+")
# tarfile reads the content of these headers at once, even if they claim a huge length.
_LONG_NAMES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
# tarfile lets these exceptions out on damaged headers.
_HEADER_ERRORS = (tarfile.TarError, ValueError, LookupError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Member:
    """One file of a sample. Its header begins at `offset`, its content is `data`, and its padding stops at `end`.

    All three are in bytes of the tar. `unsafe` is the reason why the member must not be used, if there is one.
    """

    key: str
    extension: str
    offset: int
    end: int
    data: slice
    unsafe: str | None

    @property
    def size(self) -> int:
        """The length of the content in bytes."""
        return int(self.data.stop) - int(self.data.start)


class TarDamage(Exception):
    """A tar cannot be read beyond `offset`. `error` is the class of the reject that results.

    If `complete` is False, the last sample before `offset` may lack members.
    """

    def __init__(self, error: str, message: str, offset: int, complete: bool = False) -> None:
        super().__init__(message)
        self.error, self.message, self.offset, self.complete = error, message, offset, complete


class _Header(tarfile.TarInfo):
    """A header of a plausible size. With a negative or huge size, tarfile would read the whole shard as a name."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _LONG_NAMES and header.size > MAX_LONG_NAME):
            raise tarfile.HeaderError(f"a member or a name of {header.size} bytes")
        return header


def read_members(file: BinaryIO) -> Iterator[Member]:
    """Yield the members that belong to samples. Only headers are read.

    Raises:
        tarfile.ReadError: The first header cannot be read.
        TarDamage: The tar has no end-of-archive marker, or has something else where a header belongs.
    """
    try:
        # The tar is not closed, because that would only close the file of the caller.
        tar = tarfile.TarFile(fileobj=file, tarinfo=_Header, encoding="utf-8", errors="surrogateescape")
    except _HEADER_ERRORS as error:
        raise tarfile.ReadError(str(error)) from error
    end = 0
    while True:
        try:
            info = tar.next()
        except _HEADER_ERRORS as error:
            raise _damage_at(file, end, str(error)) from error
        if info is None:
            break
        if info.size < 0 or tar.offset <= end:
            # tarfile would go backwards by a negative size, and never stop.
            raise _damage_at(file, end, "negative size")
        end = tar.offset
        tar.members = []  # type: ignore[attr-defined]  # otherwise tarfile keeps every header in memory
        info.name = clean_name(info.name)
        key, extension = split_name(info)
        if key is not None:
            data = slice(info.offset_data, info.offset_data + info.size)
            yield Member(key, extension, info.offset, end, data, unsafe_reason(info))
    # tarfile returns None for the end-of-archive marker, for the end of the file and for a bad header.
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if any(block) or len(block) < tarfile.BLOCKSIZE:
        raise _damage_at(file, end, "bad checksum" if any(block) else "no end-of-archive marker")
    while block := file.read(1 << 20):
        if any(block):
            message = (
                f"the tar has data after its end-of-archive marker at byte {end}, as after joining tars with cat; "
                "pack all samples into one tar"
            )
            raise TarDamage("CorruptShard", message, end, complete=True)


def _damage_at(file: BinaryIO, offset: int, cause: str) -> TarDamage:
    """Return the error for a tar that tarfile cannot read at `offset`: truncated if the file ends there."""
    reached, size = file.tell(), file.seek(0, os.SEEK_END)
    if reached < size:
        message = f"the tar is damaged at byte {offset} ({cause}); fetch the shard again"
        return TarDamage("CorruptShard", message, offset)
    message = (
        f"the tar ends at byte {size} without an end-of-archive marker ({cause}), so this sample and later ones may be "
        "incomplete; fetch the shard again, or append 1024 zero bytes if you know that it is complete"
    )
    return TarDamage("TruncatedShard", message, min(offset, size))


def clean_name(name: str) -> str:
    """Return a member's name, or a key, without the "./" that `tar -C folder .` puts before it."""
    return _DOT_FOLDERS.sub("", name)


def split_name(info: tarfile.TarInfo) -> tuple[str | None, str]:
    """Return the key and the lower-case extension of a member. The key is None if it belongs to no sample."""
    if info.isdir() or _IGNORED.match(info.name):
        return None, ""
    # webdataset's own expression takes quadratic time on a long name, and does not match one with a newline.
    folder, slash, name = info.name.rpartition("/")
    base, dot, extension = name.partition(".")
    if not dot:
        return (info.name, "") if unsafe_reason(info) else (None, "")
    return f"{folder}{slash}{base}", extension.lower()


def unsafe_reason(info: tarfile.TarInfo) -> str | None:
    """Return the reason why a member must not be used; None if it is a plain file."""
    if not info.isreg():
        return "is a link or a device"
    if info.issparse():
        return "is a sparse file"
    if info.name.startswith("/") or ".." in info.name.split("/"):
        return "has a path that leads out of the tar"
    return None


def printable_name(name: str) -> str:
    """Return a member's name as text that can be stored. Bytes that are not UTF-8 become escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
