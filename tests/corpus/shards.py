"""Whole shards: damaged ones with valid samples, unusable ones, and ones that change after the plan."""

import bz2
import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.corpus.case import Case
from tests.corpus.samples import CAPTION, PNG, flip_bit, member, sample

DamagedShard = Case[Callable[[], bytes]]
File = Case[Callable[[Path], object]]

END = bytes(1024)
A, B, C = (b"".join(sample(key)) for key in "abc")
WHOLE = A + B + C + END
ROW, TRUNCATED, CORRUPT = "row", "reject index TruncatedShard", "reject index CorruptShard"


def cut(length: int) -> Callable[[], bytes]:
    return lambda: WHOLE[:length]


def between(header: bytes) -> Callable[[], bytes]:
    """Return a builder of a tar with valid samples before and after a header."""
    return lambda: A + header + B + END


def header(size: int, name: str = "evil.png", kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def with_json(text: bytes) -> bytes:
    return A + B + member("b.json", text) + C + END


JSON = b'{"a": "b"}'
JSON_OFFSET = with_json(JSON).index(JSON)

DAMAGED: list[DamagedShard] = [
    Case(
        "cut-in-header",
        "a tar that is cut within a header",
        cut(len(A + B) - 1024 + 300),
        (ROW, TRUNCATED),
        "fetch the shard again",
    ),
    Case(
        "cut-in-body", "a tar that is cut within an image", cut(len(A) + 700), (ROW, TRUNCATED), "fetch the shard again"
    ),
    Case(
        "cut-at-member",
        "a tar that is cut between two members of a sample",
        cut(len(A + B) - 1024),
        (ROW, TRUNCATED),
        "no end-of",
    ),
    Case(
        "cut-at-sample", "a tar that is cut between two samples", cut(len(A + B)), (ROW, TRUNCATED), "no end-of-archive"
    ),
    Case(
        "cut-in-end",
        "a tar that is cut within the first block of its end marker",
        cut(len(WHOLE) - 600),
        (ROW, ROW, TRUNCATED),
        "no end-of",
    ),
    Case(
        "cut-in-padding",
        "a tar that is cut within the second block of its end marker",
        cut(len(WHOLE) - 100),
        (ROW, ROW, ROW),
    ),
    Case(
        "header-flipped", "a flipped bit in a tar header", lambda: flip_bit(WHOLE, len(A) + 20), (CORRUPT,), "checksum"
    ),
    Case(
        "image-flipped",
        "a flipped bit in a PNG of a tar",
        lambda: flip_bit(WHOLE, len(A) + 512 + len(PNG) - 30),
        (ROW, "reject decode CorruptImage", ROW),
        "checksum",
    ),
    Case(
        "json-flipped",
        "a flipped bit in a .json of a tar",
        lambda: flip_bit(with_json(JSON), JSON_OFFSET),
        (ROW, "reject read InvalidJson", ROW),
        "not JSON",
    ),
    Case(
        "text-flipped",
        "a flipped bit in a caption of a tar (captions have no checksum)",
        lambda: flip_bit(WHOLE, WHOLE.index(CAPTION)),
        (ROW, ROW, ROW),
    ),
    Case("size-negative", "a member of negative size", between(header(-600)), (CORRUPT,), "of -600 bytes"),
    Case("size-huge", "a member of 2^60 bytes", between(header(1 << 60)), (ROW, TRUNCATED), "unexpected end"),
    Case(
        "name-size-negative",
        "a GNU long name of negative size",
        between(header(-600, kind=tarfile.GNUTYPE_LONGNAME)),
        (CORRUPT,),
    ),
    Case(
        "name-size-huge",
        "a GNU long name of 2^60 bytes",
        between(header(1 << 60, kind=tarfile.GNUTYPE_LONGNAME)),
        (CORRUPT,),
    ),
    Case("pax-size-negative", "a pax header of negative size", between(header(-600, kind=tarfile.XHDTYPE)), (CORRUPT,)),
    Case(
        "headers-nested",
        "5,000 long names in a row",
        between(member("x", b"y\0", type=tarfile.GNUTYPE_LONGNAME) * 5000),
        (CORRUPT,),
        "recursion",
    ),
    Case(
        "joined",
        "two tars that were joined with cat",
        lambda: A + END + B + END,
        (ROW, CORRUPT),
        "joining tars with cat",
    ),
    Case("no-members", "a tar without members", lambda: bytes(10_240), ()),
]


def written(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", PNG)
    return buffer.getvalue()


NO_PLAN = ("error PlanError",)

UNUSABLE: list[File] = [
    Case("gz", "a gzip file named .tar", written(gzip.compress(WHOLE)), NO_PLAN, "compressed with gzip"),
    Case("bz2", "a bzip2 file named .tar", written(bz2.compress(WHOLE)), NO_PLAN, "compressed with bzip2"),
    Case("zip", "a zip file named .tar", written(zipped()), NO_PLAN, "compressed with zip"),
    Case("empty", "a file of 0 bytes", written(b""), NO_PLAN, "is empty"),
    Case("zeros", "a file of zeros", written(bytes(50_000)), NO_PLAN, "no member"),
    Case(
        "html",
        "a web page named .tar",
        written(b"\n<!DOCTYPE html><title>404</title>" * 99),
        NO_PLAN,
        "is a web page",
    ),
    Case("text", "a text file named .tar", written(b"Not found. " * 99), NO_PLAN, "is not a tar"),
    Case(
        "cut-in-first",
        "a tar that is cut within its first header",
        written(WHOLE[:300]),
        NO_PLAN,
        "cut within its first header",
    ),
    Case("strange", "a tar without samples", written(member("README", bytes(20_000)) + END), NO_PLAN, "key.png"),
    Case("absent", "a shard that does not exist", lambda path: None, NO_PLAN, "does not exist"),
    Case("dangling", "a broken symlink", lambda path: path.symlink_to("nowhere"), NO_PLAN, "does not exist"),
    Case("folder", "a folder named .tar", lambda path: path.mkdir(), NO_PLAN, "is a folder"),
    Case("pipe", "a named pipe with the name .tar", lambda path: os.mkfifo(path), NO_PLAN, "a device"),
]


def repacked(path: Path) -> None:
    """Pack the same samples again, with another time in their headers."""
    path.write_bytes(b"".join(member for key in "abc" for member in sample(key, mtime=1_700_000_000)) + END)


CHANGED: list[File] = [
    Case("touched", "another modification time (touch)", lambda path: os.utime(path, (0, 0)), (ROW, ROW, ROW)),
    Case("copied", "a new file with the same bytes (cp)", written(WHOLE), (ROW, ROW, ROW)),
    Case("repacked", "the same samples packed again, with other times in the headers", repacked, (ROW, ROW, ROW)),
    Case("grown", "new samples after the planned ones", written(WHOLE + C + END), (ROW, ROW, ROW)),
    Case(
        "replaced",
        "other bytes, and the same size",
        written(flip_bit(WHOLE, 600)),
        ("error ShardChanged",),
        "since the shard was planned",
    ),
    Case(
        "shifted",
        "a new sample before the planned ones",
        written(C + WHOLE),
        ("error ShardChanged",),
        "since the shard was planned",
    ),
    Case(
        "cut-later",
        "a shard that was cut",
        written(WHOLE[:1000]),
        ("error ShardChanged",),
        "since the shard was planned",
    ),
    Case("deleted", "a shard that was deleted", lambda path: path.unlink(), ("error NotFound",), "does not exist"),
]
