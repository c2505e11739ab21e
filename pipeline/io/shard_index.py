"""Index WebDataset tar shards: the samples in a shard, their byte ranges, and the faults that headers show.

A sample consists of all members with one key, wherever they are in the tar. As in webdataset, the key is the member's
name up to the first dot of its last path component. A leading "./" is removed.

An image whose name has further dots (10.30.15.png) is rejected under its own name, so that each such image is counted.
But a member such as key.mask.png, which accompanies the image of a sample, is an unused member of that sample.

Only an image, a .txt and a .json are used. These are not members of samples: folders, hidden files (macOS's "._" files
and .DS_Store), __MACOSX, webdataset's "__" meta names, and names without an extension.

If a shard is truncated (TruncatedShard) or damaged (CorruptShard), the last sample before the damage is rejected, even
if it has an image and a caption: it may lack members, and the reject shows that the shard is incomplete. All earlier
samples are complete.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import BinaryIO, cast

from pipeline.errors import JobError
from pipeline.io.errors import StorageError
from pipeline.io.locations import local_path
from pipeline.io.storage import WINDOW, Reader
from pipeline.io.tar import Member, TarDamage, printable_name, read_members
from schemas.rejects import Reject

IMAGES = frozenset({"bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"})
CAPTION = "txt"
METADATA = "json"
USED = IMAGES | {CAPTION, METADATA}
MAX_SAMPLE = 256 << 20  # bytes of a sample's used members, which are read as a whole: this bounds a worker's memory
DIGEST = 8  # bytes of an entry's digest, which only has to distinguish versions of one sample
MAX_NAMES, MAX_NAME = 5, 100  # extensions of a sample that a message lists, and characters of each

_BITS = {extension: 1 << number for number, extension in enumerate(sorted(USED))}
_IMAGE_BITS = sum(_BITS[extension] for extension in IMAGES)
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


class ShardError(JobError):
    """A shard, or a list of shards, cannot be used at all."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The location of one input sample: bytes [offset, end) of its shard without `gaps`, and its fault, if any.

    `gaps` are ranges [start, end) of unused members and their headers. Each is long enough that skipping it is worth a
    further request. `digest` identifies the content of the used members; None if indexing did not read the content.
    """

    index: int
    key: str
    offset: int
    end: int
    fault: Reject | None
    gaps: tuple[tuple[int, int], ...] = ()
    digest: bytes | None = None

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The ranges of bytes [start, end) that are read from the shard for this sample."""
        if self.fault is not None:
            return []
        starts, ends = [self.offset, *(end for _, end in self.gaps)], [*(start for start, _ in self.gaps), self.end]
        return [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]

    @property
    def bytes_read(self) -> int:
        """The length of all `ranges` in bytes."""
        return sum(end - start for start, end in self.ranges)


@dataclass(frozen=True)
class ShardIndex:
    """The input samples of one version of a shard, in order. `size` is in bytes."""

    url: str
    size: int
    etag: str | None
    entries: tuple[Entry, ...]


@dataclass(slots=True, eq=False)
class _Group:
    """The members of one sample so far: bytes [offset, end) of the tar without `gaps`.

    `used` has a bit for each extension in USED that the sample has, and `size` is their length in bytes. `others` names
    some of the further members. `fault` is the fault of a single member. `digest` combines the digests of the used
    members by XOR, so that their order does not matter.
    """

    key: str
    repeated: bool
    offset: int
    end: int
    gaps: tuple[tuple[int, int], ...] = ()
    used: int = 0
    size: int = 0
    others: tuple[str, ...] = ()
    fault: tuple[str, str] | None = None
    digest: int = 0

    @property
    def has_image(self) -> bool:
        return bool(self.used & _IMAGE_BITS)

    @property
    def has_caption(self) -> bool:
        return bool(self.used & _BITS[CAPTION])

    def add(self, member: Member, extension: str, *, adjacent: bool) -> None:
        """Add a member. `adjacent` is True if its bytes, or a run of unused members before it, follow this group."""
        if member.unsafe is not None:
            name = _shortened(f"{self.key}.{extension}")
            self.fault = "UnsafeMember", f"member {name!r} {member.unsafe}; repack the shard with plain files only"
        if extension not in USED:
            self.add_unused(extension)
            return
        if not self.used:
            self.offset = member.offset
        elif not adjacent or member.offset - self.end >= WINDOW:
            self.gaps += ((self.end, member.offset),)
        if extension in IMAGES and member.size == 0 and self.fault is None:
            self.fault = "EmptyMember", f"the {extension} has 0 bytes; replace it"
        self.used |= _BITS[extension]
        self.size += member.size
        self.end = member.end

    def add_unused(self, extension: str) -> None:
        """Keep the extension of an unused member for messages."""
        if len(self.others) <= MAX_NAMES:
            self.others += (extension,)


def index_shard(url: str, *, digests: bool = False) -> ShardIndex:
    """Index the samples of a shard from its headers, with a fault for each sample that cannot be used.

    Samples are in the order of their first members. A member belongs to the latest sample with its key. If that sample
    has its extension already, the member begins another sample.

    Faults: DuplicateKey (the first sample with a key is kept), DottedKey, MissingImage, MissingCaption, EmptyMember,
    SeveralImages, OversizedSample, UnsafeMember, KeyEncoding, TruncatedShard and CorruptShard. The last two have the
    key "" if no sample was incomplete where the shard became unreadable.

    With `digests`, each entry of a local shard has a digest. This reads every used byte; without digests the reads of
    1 MiB per header cover nearly as much, except for members of several MiB. Entries of objects have no digest, because
    the ETag of an object depends on its content.

    Raises:
        ShardError: The shard does not exist, cannot be reached, is empty, is compressed, or is not a tar.
    """
    path = local_path(url)
    if path is not None and os.path.exists(path) and not os.path.isfile(path):
        raise ShardError(f"{url}: is a folder or a device, not a file; name the shards in it (braces are expanded)")
    try:
        reader = Reader(url)
        if reader.head.size == 0:
            raise ShardError(f"{url}: is empty (0 bytes); fetch it again")
        try:
            entries = _entries(url, cast(BinaryIO, reader), digests=digests and path is not None)
        except tarfile.ReadError as error:
            raise ShardError(f"{url}: {_not_a_tar(reader)} ({error})") from error
    except StorageError as error:
        hint = "; wildcards are not expanded, use braces: {00000..00031}.tar" if "*" in url else ""
        raise ShardError(f"{error}{hint}") from error
    if not entries and reader.head.size > tarfile.RECORDSIZE:
        raise ShardError(f"{url}: no member is named like a sample (key.png, key.txt); give a WebDataset shard")
    return ShardIndex(url, reader.head.size, reader.head.etag, tuple(entries))


def member_digest(extension: str, size: int, content: Iterable[bytes]) -> int:
    """Return the first DIGEST bytes of a member's sha256, as a number."""
    digest = sha256(f"{extension} {size}\n".encode())
    for data in content:
        digest.update(data)
    return int.from_bytes(digest.digest()[:DIGEST])


def _entries(url: str, file: BinaryIO, *, digests: bool) -> list[Entry]:
    """Return the entries of a tar.

    Raises:
        tarfile.ReadError: The first header cannot be read.
    """
    groups, last, damage = _groups(file, digests=digests)
    size = file.seek(0, os.SEEK_END)
    entries: list[Entry] = []
    for group in groups:
        key, index = printable_name(group.key), len(entries)
        fault = _fault(group)
        if damage is not None and group is last and not damage.complete:
            fault, damage = (damage.error, damage.message), None
        reject = None if fault is None else Reject(url, index, key, "index", *fault)
        digest = group.digest.to_bytes(DIGEST) if digests and reject is None else None
        gaps = group.gaps if reject is None else ()
        entries.append(Entry(index, key, group.offset, min(group.end, size), reject, gaps, digest))
    if damage is not None:
        reject = Reject(url, len(entries), "", "index", damage.error, damage.message)
        entries.append(Entry(len(entries), "", damage.offset, min(damage.offset, size), reject))
    return entries


def _groups(file: BinaryIO, *, digests: bool) -> tuple[list[_Group], _Group | None, TarDamage | None]:
    """Group the members of a tar into samples. Return the groups, the group of the last member, and the damage, if any.

    Memory has one small record per sample, and none per member.

    Raises:
        tarfile.ReadError: The first header cannot be read.
    """
    groups: list[_Group] = []
    latest: dict[str, _Group] = {}
    last: _Group | None = None
    damage: TarDamage | None = None
    try:
        for member in read_members(file):
            key, extension = member.key, member.extension
            front, dot, end = extension.rpartition(".")
            if dot:
                key, extension = f"{key}.{front}", end
            group = latest.get(key)
            if group is None or group.used & _BITS.get(extension, 0):
                group = latest[key] = _Group(key, group is not None, member.offset, member.offset)
                groups.append(group)
            group.add(member, extension, adjacent=group is last)
            if digests and extension in USED and member.size <= MAX_SAMPLE:
                file.seek(member.data.start)
                content = (file.read(min(WINDOW, member.size - at)) for at in range(0, member.size, WINDOW))
                group.digest ^= member_digest(extension, member.size, content)
            last = group
    except TarDamage as error:
        damage = error
    kept = []
    for group in groups:
        sample, front = _accompanied(group, latest)
        if sample is None:
            kept.append(group)
        else:
            sample.add_unused(front)
            last = sample if last is group else last
    return kept, last, damage


def _accompanied(group: _Group, latest: Mapping[str, _Group]) -> tuple[_Group | None, str]:
    """Return the sample that a group with a dotted key only accompanies, as key.mask.png does, and its extension."""
    folder, slash, name = group.key.rpartition("/")
    base, dot, front = name.partition(".")
    sample = latest.get(f"{folder}{slash}{base}") if dot else None
    if sample is None or (group.has_image and (group.has_caption or not sample.has_image)):
        return None, ""
    return sample, f"{front}.{_names(group)}"


def _fault(group: _Group) -> tuple[str, str] | None:
    """Return the error and the message for a fault of a sample that the headers show; None if there is no fault."""
    key, names = group.key, _names(group)
    if group.fault is not None and group.fault[0] == "UnsafeMember":
        return group.fault
    if printable_name(key) != key:
        return "KeyEncoding", "the key is not UTF-8; rename the members"
    if "." in key.rpartition("/")[2]:
        return (
            "DottedKey",
            f"the name has a dot before its extension ({names}), but a WebDataset key ends at the first dot; rename the"
            " members with _ instead of that dot",
        )
    if group.repeated:
        return "DuplicateKey", "an earlier sample of this shard has the same key and is used; rename this one"
    if not group.has_image:
        return "MissingImage", f"no image among the members ({names}); add one, with the same name up to the first dot"
    if (images := (group.used & _IMAGE_BITS).bit_count()) > 1:
        return "SeveralImages", f"{images} images among the members ({names}); keep one"
    if group.fault is not None:
        return group.fault
    if not group.has_caption:
        hint = f"; add a .{CAPTION} with the same key"
        if group.used & _BITS[METADATA]:
            hint = f"; captions in a .{METADATA} are not read: write it to a .{CAPTION} with the same key"
        return "MissingCaption", f"no .{CAPTION} among the members ({names}){hint}"
    if group.size > MAX_SAMPLE:
        message = f"image, .txt and .json have {group.size:,} bytes; the limit is {MAX_SAMPLE:,}: make them smaller"
        return "OversizedSample", message
    return None


def _names(group: _Group) -> str:
    """Return the extensions of a sample's members, or a few if there are many."""
    names = [extension for extension, bit in _BITS.items() if group.used & bit]
    names += map(_shortened, group.others[:MAX_NAMES])
    return ", ".join(names) + (", ..." if len(group.others) > MAX_NAMES else "")


def _not_a_tar(reader: Reader) -> str:
    """Return the kind of a file that is not a tar, and what to do."""
    reader.seek(0)
    start = reader.read(8)
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            return f"is compressed with {name}, which cannot be read in slices; unpack it to a plain .tar"
    if start.lstrip().startswith(b"<"):
        return "is a web page, perhaps the error page of a server, and not a tar; fetch it again"
    return "is not a tar, or is cut within its first header; fetch it again"


def _shortened(name: str) -> str:
    """Return at most the first MAX_NAME characters of a member's name, as printable text."""
    return printable_name(name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}...")
