"""Whole shards: damaged ones, of which a job takes what is sound, and such as cannot be used or change on the way."""

import bz2
import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.corpus.case import Case
from tests.corpus.samples import CAPTION, PNG, flipped, member, sample

Damaged = Case[Callable[[], bytes]]
Unusable = Case[Callable[[Path], object]]

END = bytes(1024)
A, B, C = (b"".join(sample(key)) for key in "abc")
WHOLE = A + B + C + END
ROW, TRUNCATED, DAMAGED = "row", "reject index TruncatedShard", "reject index CorruptShard"


def cut(length: int) -> Callable[[], bytes]:
    return lambda: WHOLE[:length]


def between(header: bytes) -> Callable[[], bytes]:
    """Sound samples before and after a header."""
    return lambda: A + header + B + END


def header(size: int, name: str = "evil.png", kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def with_json(text: bytes) -> bytes:
    return A + B + member("b.json", text) + C + END


JSON = b'{"a": "b"}'
PLACE = with_json(JSON).index(JSON)

DAMAGE: list[Damaged] = [
    Case(
        "cut-in-header",
        "a tar cut in a header",
        cut(len(A + B) - 1024 + 300),
        (ROW, TRUNCATED),
        "fetch the shard again",
    ),
    Case("cut-in-body", "a tar cut in an image", cut(len(A) + 700), (ROW, TRUNCATED), "fetch the shard again"),
    Case(
        "cut-at-member",
        "a tar cut between two members of a sample",
        cut(len(A + B) - 1024),
        (ROW, TRUNCATED),
        "no end-of",
    ),
    Case("cut-at-sample", "a tar cut between two samples", cut(len(A + B)), (ROW, TRUNCATED), "no end-of-archive"),
    Case(
        "cut-in-end",
        "a tar cut in its end marker's first block",
        cut(len(WHOLE) - 600),
        (ROW, ROW, TRUNCATED),
        "no end-of",
    ),
    Case("cut-in-padding", "a tar cut in its end marker's second block", cut(len(WHOLE) - 100), (ROW, ROW, ROW)),
    Case(
        "header-flipped", "a flipped bit in a tar header", lambda: flipped(WHOLE, len(A) + 20), (DAMAGED,), "checksum"
    ),
    Case(
        "image-flipped",
        "a flipped bit in a PNG of a tar",
        lambda: flipped(WHOLE, len(A) + 512 + len(PNG) - 30),
        (ROW, "reject decode CorruptImage", ROW),
        "checksum",
    ),
    Case(
        "json-flipped",
        "a flipped bit in a json of a tar",
        lambda: flipped(with_json(JSON), PLACE),
        (ROW, "reject read InvalidJson", ROW),
        "not JSON",
    ),
    Case(
        "text-flipped",
        "a flipped bit in a caption of a tar (no checksum tells)",
        lambda: flipped(WHOLE, WHOLE.index(CAPTION)),
        (ROW, ROW, ROW),
    ),
    Case("size-negative", "a member of negative size", between(header(-600)), (DAMAGED,), "of -600 bytes"),
    Case("size-huge", "a member of 2^60 bytes", between(header(1 << 60)), (ROW, TRUNCATED), "unexpected end"),
    Case(
        "name-size-negative",
        "a GNU long name of negative size",
        between(header(-600, kind=tarfile.GNUTYPE_LONGNAME)),
        (DAMAGED,),
    ),
    Case(
        "name-size-huge",
        "a GNU long name of 2^60 bytes",
        between(header(1 << 60, kind=tarfile.GNUTYPE_LONGNAME)),
        (DAMAGED,),
    ),
    Case("pax-size-negative", "a pax header of negative size", between(header(-600, kind=tarfile.XHDTYPE)), (DAMAGED,)),
    Case(
        "headers-nested",
        "5,000 long names in a row",
        between(member("x", b"y\0", type=tarfile.GNUTYPE_LONGNAME) * 5000),
        (DAMAGED,),
        "recursion",
    ),
    Case("joined", "two tars joined by cat", lambda: A + END + B + END, (ROW, DAMAGED), "joining tars with cat"),
    Case("no-members", "a tar of nothing", lambda: bytes(10_240), ()),
]


def written(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", PNG)
    return buffer.getvalue()


NO_PLAN = ("error PlanError",)

UNUSABLE: list[Unusable] = [
    Case("gz", "a gzip, called .tar", written(gzip.compress(WHOLE)), NO_PLAN, "compressed with gzip"),
    Case("bz2", "a bzip2, called .tar", written(bz2.compress(WHOLE)), NO_PLAN, "compressed with bzip2"),
    Case("zip", "a zip, called .tar", written(zipped()), NO_PLAN, "compressed with zip"),
    Case("empty", "a file of 0 bytes", written(b""), NO_PLAN, "is empty"),
    Case("zeros", "a file of zeros", written(bytes(50_000)), NO_PLAN, "no member"),
    Case(
        "html",
        "a web page, called .tar",
        written(b"\n<!DOCTYPE html><title>404</title>" * 99),
        NO_PLAN,
        "is a web page",
    ),
    Case("text", "a text, called .tar", written(b"Not found. " * 99), NO_PLAN, "is not a tar"),
    Case(
        "cut-in-first",
        "a tar cut within its first header",
        written(WHOLE[:300]),
        NO_PLAN,
        "cut within its first header",
    ),
    Case("strange", "a tar without samples", written(member("README", bytes(20_000)) + END), NO_PLAN, "key.png"),
    Case("absent", "a shard that is not there", lambda path: None, NO_PLAN, "does not exist"),
    Case("dangling", "a link to nowhere", lambda path: path.symlink_to("nowhere"), NO_PLAN, "does not exist"),
    Case("folder", "a folder called .tar", lambda path: path.mkdir(), NO_PLAN, "is a folder"),
    Case("pipe", "a named pipe called .tar", lambda path: os.mkfifo(path), NO_PLAN, "a device"),
]


def repacked(path: Path) -> None:
    """Pack the same samples again, with another time in their headers."""
    path.write_bytes(b"".join(member for key in "abc" for member in sample(key, mtime=1_700_000_000)) + END)


CHANGED: list[Unusable] = [
    Case("touched", "another time since the plan (touch)", lambda path: os.utime(path, (0, 0)), (ROW, ROW, ROW)),
    Case("copied", "the same bytes in another file since the plan (cp)", written(WHOLE), (ROW, ROW, ROW)),
    Case("repacked", "packed again since the plan, with other times in its headers", repacked, (ROW, ROW, ROW)),
    Case("grown", "more samples after the planned ones", written(WHOLE + C + END), (ROW, ROW, ROW)),
    Case(
        "replaced",
        "other bytes of the same size since the plan",
        written(flipped(WHOLE, 600)),
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
        "cut-later", "cut since the plan", written(WHOLE[:1000]), ("error ShardChanged",), "since the shard was planned"
    ),
    Case("deleted", "gone since the plan", lambda path: path.unlink(), ("error NotFound",), "does not exist"),
]
