"""WebDataset tar shards, read strictly: every sample comes out whole or leaves a reject, and none is mixed up.

A sample is all members of one key, wherever they lie in the tar. webdataset's rule gives the key: a name up to the
first dot of its last path component, here without "./". An image with further dots in its name (10.30.15.png) is
rejected under its own name, so that each such image is counted; but one that accompanies a sample's image
(key.mask.png) is an unused member of that sample.

Planning reads the headers of a shard once (`index_shard`). A unit later reads its slice by range requests, usually one,
and parses each sample from its own bytes only (`read_samples`). Only an image, a .txt and a .json are used. Runs of
other members (a video, an array) of at least WINDOW bytes are not read. These are not members: directories, hidden
files (such as macOS's "._" files and .DS_Store), __MACOSX, webdataset's "__" meta names, names without an extension.

A shard that stops early (TruncatedShard) or turns to nonsense (CorruptShard) costs the sample that was open there,
even one that has its image and caption: more of its members may be lost, and without this reject nothing would tell
that the shard is not all there. What comes before is whole.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, BinaryIO, Self, cast

from pipeline.errors import JobError
from pipeline.io.storage import READ, WINDOW, Head, Reader, StorageError, head, local_path, read_ranges
from schemas.rejects import Reject

IMAGES = frozenset({"bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"})
CAPTION = "txt"
METADATA = "json"
USED = IMAGES | {CAPTION, METADATA}
LARGEST = 256 << 20  # bytes of a sample's used members: a sample is read whole, so that this bounds a worker's memory
DIGEST = 8  # bytes of an entry's digest, which only has to distinguish two versions of one sample
NAMED, LONGEST_NAME = 5, 100  # extensions of a sample that a message names, and their characters
_BITS = {extension: 1 << number for number, extension in enumerate(sorted(USED))}
_IMAGE_BITS = sum(_BITS[extension] for extension in IMAGES)

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
# webdataset's own rule for meta names, and the litter of macOS and of hidden files.
_IGNORED = re.compile(r"__[^/]*__(/|$)|(.*/)?(__MACOSX(/|$)|\.[^/]*$)", re.DOTALL)
_DOT_FOLDERS = re.compile(r"(?:^|(?<=/))(?:\./+)+")
# Headers whose content tarfile reads at once, whatever length they claim, and the most bytes that are let pass.
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_LONGEST = 1 << 20
# What tarfile raises on damaged headers beside its own errors.
_DAMAGE = (tarfile.TarError, ValueError, LookupError, OverflowError, RecursionError)


class ShardError(JobError):
    """A shard, or a list of shards, that cannot be used at all; the message names it and says what to do."""


class ShardChanged(ShardError):
    """A shard that is no longer what was planned."""


class BadMemberName(ValueError):
    """A sample that cannot be written to a shard, because a WebDataset reader would not return it under its name."""


@dataclass(frozen=True)
class Sample:
    """One whole input sample. `image` is the file's bytes, not decoded; `json` the .json member's text, untouched."""

    index: int
    key: str
    image: bytes
    extension: str
    caption: str
    json: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """The location of one input sample: bytes [offset, end) of its shard, less `gaps`; its fault, if one is known.

    `gaps` are runs [start, end) of unused members and their headers, each long enough to be skipped with a further
    request. `digest` identifies the content of the used members; it is None if indexing did not read the content.
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
        """The runs of bytes [start, end) that are read from the shard for this sample."""
        if self.fault is not None:
            return []
        starts, ends = [self.offset, *(end for _, end in self.gaps)], [*(start for start, _ in self.gaps), self.end]
        return [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]

    @property
    def bytes_read(self) -> int:
        """The length of all `ranges`."""
        return sum(end - start for start, end in self.ranges)


@dataclass(frozen=True)
class ShardIndex:
    """Every input sample of one version of a shard, in order."""

    url: str
    size: int
    etag: str | None
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class _Member:
    """One file of a sample: headers from `offset`, content at `data`, padded to `end`, all in bytes of the tar."""

    key: str
    extension: str
    offset: int
    end: int
    data: slice
    unsafe: str | None

    @property
    def size(self) -> int:
        return self.data.stop - self.data.start


@dataclass(slots=True, eq=False)
class _Group:
    """The sample that is made of the members seen so far of one key: bytes [offset, end) of the tar, without `gaps`.

    `used` has a bit for each extension in USED that it has, of `size` bytes in all; `others` names some of its further
    members. `fault` is that of a single member. `digest` combines those of the used members by XOR, in any order.
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

    def add(self, member: _Member, extension: str, *, adjacent: bool) -> None:
        """Add a member, whose bytes follow those of the group if `adjacent`, or a run of unused members."""
        if member.unsafe is not None:
            name = _shortened(f"{self.key}.{extension}")
            self.fault = "UnsafeMember", f"member {name!r} {member.unsafe}; repack the shard with plain files only"
        if extension not in USED:
            self.mention(extension)
            return
        if not self.used:
            self.offset = member.offset
        elif not adjacent or member.offset - self.end >= WINDOW:
            self.gaps += ((self.end, member.offset),)
        if extension in IMAGES and member.size == 0 and self.fault is None:
            self.fault = "EmptyMember", f"the {extension} has 0 bytes"
        self.used |= _BITS[extension]
        self.size += member.size
        self.end = member.end

    def mention(self, extension: str) -> None:
        """Remember the extension of an unused member for messages."""
        if len(self.others) <= NAMED:
            self.others += (extension,)


class _Header(tarfile.TarInfo):
    """A header whose size can be followed. A long name of a negative or a huge one is the whole shard to tarfile."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _LONG and header.size > _LONGEST):
            raise tarfile.HeaderError(f"a member or a name of {header.size} bytes")
        return header


class _Stop(Exception):
    """A tar that cannot be followed beyond `offset`; the sample open there is in doubt, unless it is known `whole`."""

    def __init__(self, error: str, message: str, offset: int, whole: bool = False) -> None:
        super().__init__(message)
        self.error, self.message, self.offset, self.whole = error, message, offset, whole


def index_shard(url: str, *, digests: bool = False) -> ShardIndex:
    """List a shard's samples from its headers, with a fault for each that cannot be used.

    Samples are in the order of their first members. A member is part of the latest sample of its key, or begins another
    one if that has its extension already.

    Faults: DuplicateKey (the first of a key stands), DottedKey, MissingImage, MissingCaption, EmptyMember,
    SeveralImages, OversizedSample, UnsafeMember, KeyEncoding, TruncatedShard and CorruptShard; the last two also stand,
    under the key "", for content that could not be read where no sample was open.

    With `digests`, each entry of a local shard has a digest. This reads every used byte; without digests the reads of
    1 MiB per header cover nearly as much, except for members of several MiB. Entries of objects have no digest, because
    an object's ETag depends on its content.

    Raises:
        ShardError: the shard does not exist, cannot be reached, is empty, compressed or not a tar.
    """
    path = local_path(url)
    if path is not None and os.path.exists(path) and not os.path.isfile(path):
        raise ShardError(f"{url}: is a folder or a device, not a file; give the shards in it by name, braces expand")
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
        raise ShardError(f"{url}: no member is named like a sample (key.png, key.txt); is it a WebDataset shard?")
    return ShardIndex(url, reader.head.size, reader.head.etag, tuple(entries))


def read_samples(url: str, *, size: int, etag: str | None, entries: Sequence[Entry]) -> Iterator[Sample | Reject]:
    """Read entries of a shard in order, each as a Sample or a Reject, with a few MiB of the shard in memory at a time.

    An entry with a fault yields the fault. Rejects found here: MissingCaption (nothing but blanks), CaptionEncoding
    (not UTF-8) and InvalidJson (not an object in UTF-8).

    The shard must have the `size` and the `etag` that were indexed, or else the same content at each entry: a local
    file's ETag changes with its time and its inode.

    Raises:
        ShardChanged: a sample is not the one that was indexed, or has no digest to compare.
        StorageError: the shard cannot be reached.
    """
    planned = Head(size, etag)
    runs = list(_runs(entries))
    parts = read_ranges(url, [piece for run in runs for piece in _pieces(run)])
    for run in runs:
        read: dict[tuple[int, int], tuple[bytes, Head]] = {}
        try:
            for piece in _pieces(run):
                read[piece] = next(parts)
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
            yield _sample(url, entry, b"".join(data for data, _ in found), check=now != planned)


def _runs(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Cut entries into runs, each of which is read before the next: one entry, or several that are interleaved.

    The entries of a run have at most READ bytes.
    """
    run: list[Entry] = []
    end = size = 0
    for entry in entries:
        if run and (entry.offset >= end or size + entry.bytes_read > READ):
            yield run
            run, size = [], 0
        run.append(entry)
        size += entry.bytes_read
        end = max(end, entry.end if entry.fault is None else 0)
    if run:
        yield run


def _pieces(run: Sequence[Entry]) -> list[tuple[int, int]]:
    """Return the byte ranges of a run of entries, in the order of the tar, because neighbours share a request."""
    return sorted(piece for entry in run for piece in entry.ranges)


def json_member(content: Mapping[str, Any]) -> bytes:
    """Return the .json of a sample, with escapes only if UTF-8 cannot encode it: JSON can have a lone surrogate."""
    try:
        return json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(content).encode()


def write_shard(samples: Iterable[tuple[str, dict[str, bytes]]]) -> bytes:
    """A tar of samples, each a key and its members by extension: the same input gives the same bytes.

    Raises:
        ValueError: two samples have the same key.
        BadMemberName: as `check_member` does.
    """
    from webdataset.writer import TarWriter  # brings torch with it, which reading and planning do without

    buffer = io.BytesIO()
    seen: set[str] = set()
    with TarWriter(buffer, user="", group="", mode=0o644, mtime=0, encoder=False) as writer:
        for key, members in samples:
            if key in seen:
                raise ValueError(f"sample {key!r}: written twice; give each sample of a shard its own key")
            seen.add(key)
            for extension in members:
                check_member(key, extension)
            writer.write({"__key__": key, **members})
    return buffer.getvalue()


def check_member(key: str, extension: str) -> None:
    """Check that a WebDataset reader returns a member of a shard under the name that is written.

    Raises:
        BadMemberName: the key has a dot in its last part, a NUL or is a meta name, or the extension has upper case.
    """
    name = f"{key}.{extension}"
    info = tarfile.TarInfo(name)
    # webdataset's writer silently leaves out extensions that begin with an underscore; a name ends at a NUL
    if _split(info) != (key, extension) or _unsafe(info) or extension[:1] in ("", "_") or "\0" in name:
        raise BadMemberName(f"member {name!r}: not a name that a WebDataset reader returns; rename it")


def _entries(url: str, file: BinaryIO, *, digests: bool) -> list[Entry]:
    """Return the entries of a tar.

    Raises:
        tarfile.ReadError: not even the first header can be read.
    """
    groups, last, stop = _groups(file, digests=digests)
    size = file.seek(0, os.SEEK_END)
    entries: list[Entry] = []
    for group in groups:
        key, index = _printable(group.key), len(entries)
        fault = _fault(group)
        if stop is not None and group is last and not stop.whole:
            fault, stop = (stop.error, stop.message), None
        reject = None if fault is None else Reject(url, index, key, "index", *fault)
        digest = group.digest.to_bytes(DIGEST) if digests and reject is None else None
        gaps = group.gaps if reject is None else ()
        entries.append(Entry(index, key, group.offset, min(group.end, size), reject, gaps, digest))
    if stop is not None:
        reject = Reject(url, len(entries), "", "index", stop.error, stop.message)
        entries.append(Entry(len(entries), "", stop.offset, min(stop.offset, size), reject))
    return entries


def _groups(file: BinaryIO, *, digests: bool) -> tuple[list[_Group], _Group | None, _Stop | None]:
    """Group the members of a tar into samples. Return them, the one of the last member, and the early stop, if any.

    Memory holds one small record per sample, and none per member.

    Raises:
        tarfile.ReadError: not even the first header can be read.
    """
    groups: list[_Group] = []
    latest: dict[str, _Group] = {}
    last: _Group | None = None
    stop: _Stop | None = None
    try:
        for member in _members(file):
            key, extension = member.key, member.extension
            front, dot, end = extension.rpartition(".")
            if dot:
                key, extension = f"{key}.{front}", end
            group = latest.get(key)
            if group is None or group.used & _BITS.get(extension, 0):
                group = latest[key] = _Group(key, group is not None, member.offset, member.offset)
                groups.append(group)
            group.add(member, extension, adjacent=group is last)
            if digests and extension in USED and member.size <= LARGEST:
                file.seek(member.data.start)
                content = (file.read(min(WINDOW, member.size - at)) for at in range(0, member.size, WINDOW))
                group.digest ^= _digest(extension, member.size, content)
            last = group
    except _Stop as stopped:
        stop = stopped
    kept = []
    for group in groups:
        sample, front = _accompanied(group, latest)
        if sample is None:
            kept.append(group)
        else:
            sample.mention(front)
            last = sample if last is group else last
    return kept, last, stop


def _accompanied(group: _Group, latest: Mapping[str, _Group]) -> tuple[_Group | None, str]:
    """Return the sample that a group with a dotted key only accompanies, as key.mask.png does, and its extension."""
    folder, slash, name = group.key.rpartition("/")
    base, dot, front = name.partition(".")
    sample = latest.get(f"{folder}{slash}{base}") if dot else None
    if sample is None or (group.has_image and (group.has_caption or not sample.has_image)):
        return None, ""
    return sample, f"{front}.{_names(group)}"


def _digest(extension: str, size: int, content: Iterable[bytes]) -> int:
    """Return the beginning of a member's sha256, as a number."""
    digest = sha256(f"{extension} {size}\n".encode())
    for data in content:
        digest.update(data)
    return int.from_bytes(digest.digest()[:DIGEST])


def _members(file: BinaryIO) -> Iterator[_Member]:
    """The members that count, from headers alone.

    Raises:
        tarfile.ReadError: the first header cannot be read.
        _Stop: the tar ends without an end-of-archive marker, or goes on with something that is no header.
    """
    try:
        # Not closed: that would do nothing but close the caller's file, were it tarfile's own.
        tar = tarfile.TarFile(fileobj=file, tarinfo=_Header, encoding="utf-8", errors="surrogateescape")
    except _DAMAGE as error:
        raise tarfile.ReadError(str(error)) from error
    end = 0
    while True:
        try:
            info = tar.next()
        except _DAMAGE as error:
            raise _broken(file, end, str(error)) from error
        if info is None:
            break
        if info.size < 0 or tar.offset <= end:
            # tarfile would follow a negative size backwards, round and round.
            raise _broken(file, end, "negative size")
        end = tar.offset
        tar.members = []  # type: ignore[attr-defined]  # else tarfile keeps every header
        info.name = clean_name(info.name)
        key, extension = _split(info)
        if key is not None:
            data = slice(info.offset_data, info.offset_data + info.size)
            yield _Member(key, extension, info.offset, end, data, _unsafe(info))
    # tarfile says None alike for the end-of-archive marker, for the end of the file and for a bad header.
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if any(block) or len(block) < tarfile.BLOCKSIZE:
        raise _broken(file, end, "bad checksum" if any(block) else "no end-of-archive marker")
    while block := file.read(1 << 20):
        if any(block):
            message = f"there is data behind the end-of-archive marker at byte {end} (tars joined by cat?); repack it"
            raise _Stop("CorruptShard", message, end, whole=True)


def _broken(file: BinaryIO, offset: int, cause: str) -> _Stop:
    """What stopped tarfile at `offset`: the end of the file if it has read up to there, else damage."""
    reached, size = file.tell(), file.seek(0, os.SEEK_END)
    if reached < size:
        return _Stop("CorruptShard", f"the tar is damaged at byte {offset} ({cause}); fetch the shard again", offset)
    return _Stop(
        "TruncatedShard",
        f"the tar ends at byte {size} without an end-of-archive marker ({cause}): this sample, and any behind it, may"
        " be cut; fetch the shard again, or append 1024 zero bytes if it is known to be whole",
        min(offset, size),
    )


def clean_name(name: str) -> str:
    """Return a member's name, or a key, without the "./" that `tar -C folder .` puts before it."""
    return _DOT_FOLDERS.sub("", name)


def _split(info: tarfile.TarInfo) -> tuple[str | None, str]:
    """A member's key and lower-case extension; no key for a member that does not count."""
    if info.isdir() or _IGNORED.match(info.name):
        return None, ""
    # webdataset's own expression takes quadratic time on a long name, and gives up on one with a newline
    folder, slash, name = info.name.rpartition("/")
    base, dot, extension = name.partition(".")
    if not dot:
        return (info.name, "") if _unsafe(info) else (None, "")
    return f"{folder}{slash}{base}", extension.lower()


def _unsafe(info: tarfile.TarInfo) -> str | None:
    """Why a member must not be touched, if so."""
    if not info.isreg():
        return "is a link or a device"
    if info.issparse():
        return "is a sparse file"
    if info.name.startswith("/") or ".." in info.name.split("/"):
        return "has a path that leads outside"
    return None


def _fault(group: _Group) -> tuple[str, str] | None:
    """Return the error and message for a fault of a sample that the headers show; None if there is none."""
    key, names = group.key, _names(group)
    if group.fault is not None and group.fault[0] == "UnsafeMember":
        return group.fault
    if _printable(key) != key:
        return "KeyEncoding", "the key is not UTF-8; rename the members"
    if "." in key.rpartition("/")[2]:
        return (
            "DottedKey",
            f"the name has a dot before its extension ({names}), and a WebDataset key ends at the first dot; rename the"
            " members, with _ for that dot",
        )
    if group.repeated:
        return "DuplicateKey", "the key came before in this shard; that first sample stands, rename this one"
    if not group.has_image:
        return "MissingImage", f"no image among the members ({names}); a key ends at its name's first dot"
    if (images := (group.used & _IMAGE_BITS).bit_count()) > 1:
        return "SeveralImages", f"{images} images among the members ({names}); keep one"
    if group.fault is not None:
        return group.fault
    if not group.has_caption:
        hint = ""
        if group.used & _BITS[METADATA]:
            hint = f"; a caption in the .{METADATA} is not read: write it to a .{CAPTION} of the same key"
        return "MissingCaption", f"no .{CAPTION} among the members ({names}){hint}"
    if group.size > LARGEST:
        message = (
            f"image, .txt and .json have {group.size:,} bytes, and at most {LARGEST:,} are read; make them smaller"
        )
        return "OversizedSample", message
    return None


def _names(group: _Group) -> str:
    """Return the extensions of a sample's members, or a few of many."""
    names = [extension for extension, bit in _BITS.items() if group.used & bit]
    names += map(_shortened, group.others[:NAMED])
    return ", ".join(names) + (", ..." if len(group.others) > NAMED else "")


def _changed(url: str, entries: Sequence[Entry], planned: Head, now: Head) -> ShardChanged:
    entry = next(entry for entry in entries if entry.fault is None)
    return ShardChanged(
        f"{url}: had {planned.size} bytes and the ETag {planned.etag} when it was planned, and has {now.size} bytes and"
        f" the ETag {now.etag} now; sample {entry.index} ({entry.key!r}) is not in it, or has no digest to compare; put"
        " the planned version back, or give another output"
    )


def _sample(url: str, entry: Entry, data: bytes, *, check: bool) -> Sample | Reject:
    """Return the sample in an entry's bytes, which are without the gaps; `check` compares its digest.

    Raises:
        ShardChanged: the bytes are not exactly the sample that was indexed.
    """
    key = clean_name(entry.key)  # Plans of earlier versions have the "./".
    members: dict[str, bytes] = {}
    whole, repeated = False, False
    try:
        for member in _members(io.BytesIO(data)):
            if member.key == key and member.extension in USED:
                repeated |= member.extension in members
                members[member.extension] = data[member.data]
    except tarfile.ReadError:
        pass
    except _Stop as stop:  # There is no end-of-archive marker.
        whole = stop.offset == len(data) == entry.bytes_read
    images = [name for name in members if name in IMAGES]
    same = whole and not repeated and len(images) == 1 and CAPTION in members
    if not same or (check and entry.digest not in _digests(members)):
        raise ShardChanged(
            f"{url}: sample {entry.index} ({entry.key!r}) has changed since the shard was planned; "
            "put the planned version back, or give another output"
        )

    def reject(error: str, message: str) -> Reject:
        return Reject(url, entry.index, entry.key, "read", error, message)

    try:
        caption = members[CAPTION].decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return reject("CaptionEncoding", f"the .{CAPTION} is not UTF-8: {error}")
    if not caption.strip():
        return reject("MissingCaption", f"the .{CAPTION} is blank")
    metadata = None
    if METADATA in members:
        try:
            metadata = members[METADATA].decode("utf-8")
            if not isinstance(json.loads(metadata), dict):
                return reject("InvalidJson", f"the .{METADATA} is not an object")
        except (ValueError, RecursionError) as error:
            return reject("InvalidJson", f"the .{METADATA} is not JSON in UTF-8: {error}")
    return Sample(entry.index, entry.key, members[images[0]], images[0], caption, metadata)


def _digests(members: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    """Return the digest of an entry with these members, and the one that plans of earlier versions have."""
    digest, earlier = 0, sha256()
    for extension, data in members.items():
        digest ^= _digest(extension, len(data), [data])
        earlier.update(f"{extension} {len(data)}\n".encode() + data)
    return digest.to_bytes(DIGEST), earlier.digest()[:DIGEST]


def _not_a_tar(reader: Reader) -> str:
    """What a file that tarfile refuses is, and what to do."""
    reader.seek(0)
    start = reader.read(8)
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            return f"is compressed with {name}, which cannot be read in slices; unpack it to a plain .tar"
    if start.lstrip().startswith(b"<"):
        return "is a web page, such as a server sends for an error, not a tar; fetch it again"
    return "is not a tar, or is cut within its first header; fetch it again"


def _shortened(name: str) -> str:
    """Return at most the first LONGEST_NAME characters of a member's name, as printable text."""
    return _printable(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}...")


def _printable(name: str) -> str:
    """A member's name as text that can be stored: bytes that are not UTF-8 written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
