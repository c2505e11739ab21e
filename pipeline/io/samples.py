"""Read the samples of indexed shards, in order and by byte ranges.

A unit reads its slice of a shard with few requests, usually one, and parses each sample only from its own bytes. Unused
members (a video, an array) are skipped if they are at least WINDOW bytes long.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from pipeline.io.errors import StorageError
from pipeline.io.shard_index import CAPTION, DIGEST, IMAGES, METADATA, USED, Entry, ShardError, member_digest
from pipeline.io.storage import MAX_REQUEST, Head, head, read_ranges
from pipeline.io.tar import TarDamage, clean_name, read_members
from schemas.rejects import Reject


class ShardChanged(ShardError):
    """The samples of a shard changed after the shard was planned."""


@dataclass(frozen=True)
class Sample:
    """One complete input sample: the bytes of its image file, its caption, and the text of its .json member."""

    index: int
    key: str
    image: bytes
    extension: str
    caption: str
    json: str | None


def read_samples(url: str, *, size: int, etag: str | None, entries: Sequence[Entry]) -> Iterator[Sample | Reject]:
    """Read entries of a shard in order, each as a Sample or a Reject, with a few MiB of the shard in memory at a time.

    An entry with a fault yields the fault. Further rejects: MissingCaption (the caption is blank), CaptionEncoding (it
    is not UTF-8) and InvalidJson (the .json is not an object in UTF-8).

    The shard must have the `size` and the `etag` that were indexed, or else the same content at each entry: the ETag of
    a local file changes with its time and its inode.

    Raises:
        ShardChanged: A sample is not the one that was indexed, or has no digest to compare.
        StorageError: The shard cannot be reached.
    """
    planned = Head(size, etag)
    runs = list(_runs(entries))
    contents = read_ranges(url, [piece for run in runs for piece in _pieces(run)])
    for run in runs:
        read: dict[tuple[int, int], tuple[bytes, Head]] = {}
        try:
            for piece in _pieces(run):
                read[piece] = next(contents)
        except StorageError:
            now = head(url)
            if now == planned:
                raise
            raise _changed(url, run, planned, now) from None
        for entry in run:
            if entry.fault is not None:
                yield entry.fault
                continue
            found = [read.pop(piece) for piece in entry.ranges]
            now = next((version for _, version in found if version != planned), planned)
            if now != planned and entry.digest is None:
                raise _changed(url, [entry], planned, now)
            yield _sample(url, entry, b"".join(data for data, _ in found), check_digest=now != planned)


def _runs(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Cut entries into runs that are read one after the other: one entry, or several whose members are interleaved.

    The entries of a run have at most MAX_REQUEST bytes.
    """
    run: list[Entry] = []
    end = size = 0
    for entry in entries:
        if run and (entry.offset >= end or size + entry.bytes_read > MAX_REQUEST):
            yield run
            run, size = [], 0
        run.append(entry)
        size += entry.bytes_read
        end = max(end, entry.end if entry.fault is None else 0)
    if run:
        yield run


def _pieces(run: Sequence[Entry]) -> list[tuple[int, int]]:
    """Return the byte ranges of a run of entries in the order of the tar, so that neighbours share a request."""
    return sorted(piece for entry in run for piece in entry.ranges)


def _changed(url: str, entries: Sequence[Entry], planned: Head, now: Head) -> ShardChanged:
    entry = next(entry for entry in entries if entry.fault is None)
    return ShardChanged(
        f"{url}: had {planned.size} bytes and the ETag {planned.etag} when it was planned, and has {now.size} bytes and"
        f" the ETag {now.etag} now; sample {entry.index} ({entry.key!r}) is not in it, or has no digest to compare; put"
        " the planned version back, or give another output"
    )


def _sample(url: str, entry: Entry, data: bytes, *, check_digest: bool) -> Sample | Reject:
    """Return the sample in the bytes of an entry, which are without the gaps.

    Raises:
        ShardChanged: The bytes are not exactly the sample that was indexed.
    """
    members, complete = _members(clean_name(entry.key), data)  # plans of earlier versions have the "./"
    images = [name for name in members if name in IMAGES]
    same = complete and len(data) == entry.bytes_read and len(images) == 1 and CAPTION in members
    if not same or (check_digest and entry.digest not in _digests(members)):
        raise ShardChanged(
            f"{url}: sample {entry.index} ({entry.key!r}) has changed since the shard was planned; "
            "put the planned version back, or give another output"
        )

    def reject(error: str, message: str) -> Reject:
        return Reject(url, entry.index, entry.key, "read", error, message)

    try:
        caption = members[CAPTION].decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return reject("CaptionEncoding", f"the .{CAPTION} is not UTF-8 ({error}); convert it")
    if not caption.strip():
        return reject("MissingCaption", f"the .{CAPTION} is blank; write a caption")
    metadata = None
    if METADATA in members:
        try:
            metadata = members[METADATA].decode("utf-8")
            if not isinstance(json.loads(metadata), dict):
                return reject("InvalidJson", f"the .{METADATA} is not an object; write one, or leave the file out")
        except (ValueError, RecursionError) as error:
            return reject("InvalidJson", f"the .{METADATA} is not JSON in UTF-8 ({error}); correct it")
    return Sample(entry.index, entry.key, members[images[0]], images[0], caption, metadata)


def _members(key: str, data: bytes) -> tuple[dict[str, bytes], bool]:
    """Return the used members of a sample by extension.

    The second value is True if the bytes contain only members, and no two used members have the same extension.
    """
    members: dict[str, bytes] = {}
    complete, repeated = False, False
    try:
        for member in read_members(io.BytesIO(data)):
            if member.key == key and member.extension in USED:
                repeated |= member.extension in members
                members[member.extension] = data[member.data]
    except tarfile.ReadError:
        pass
    except TarDamage as damage:  # the bytes of a sample have no end-of-archive marker
        complete = damage.offset == len(data)
    return members, complete and not repeated


def _digests(members: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    """Return the digest of an entry with these members, and the one that plans of earlier versions have."""
    digest, earlier = 0, sha256()
    for extension, data in members.items():
        digest ^= member_digest(extension, len(data), [data])
        earlier.update(f"{extension} {len(data)}\n".encode() + data)
    return digest.to_bytes(DIGEST), earlier.digest()[:DIGEST]
