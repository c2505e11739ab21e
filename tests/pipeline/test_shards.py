"""Indexing, reading and writing shards, intact and damaged."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.io import storage
from pipeline.io.samples import Sample, ShardChanged, read_samples
from pipeline.io.shard_index import MAX_SAMPLE, ShardError, ShardIndex, index_shard
from pipeline.io.shard_list import expand_shards
from pipeline.io.shard_writer import json_member, write_shard
from schemas.rejects import Reject

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
Members = list[tuple[str, bytes]]

paths = st.from_regex(r"([a-z. é_-]{1,90}/)?[a-zA-Z0-9é _-]{1,90}", fullmatch=True).filter(
    lambda key: not key.startswith(("__", "./")) and ".." not in key and "__" not in key
)
captions = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text.strip("\ufeff \r\n").strip())


@st.composite
def datasets(draw: st.DrawFn) -> list[Sample]:
    """Samples that a strict reader returns unchanged."""
    keys = draw(st.lists(paths, min_size=1, max_size=6, unique=True))
    return [
        Sample(
            index=index,
            key=key,
            image=draw(st.binary(min_size=1, max_size=1500)),
            extension=draw(st.sampled_from(["png", "jpg", "webp"])),
            caption=draw(captions).removeprefix("\ufeff").rstrip("\r\n"),
            json=draw(st.sampled_from([None, "{}", '{"a": NaN}', ' {"é":\n"\\ud800"} \n'])),
        )
        for index, key in enumerate(keys)
    ]


def members(sample: Sample) -> Members:
    """Return the files of a sample in the order of img2dataset."""
    found = [(sample.extension, sample.image)]
    if sample.json is not None:
        found.append(("json", sample.json.encode()))
    return [(f"{sample.key}.{name}", data) for name, data in [*found, ("txt", sample.caption.encode())]]


def tar(files: Members, format: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar, written by the standard library."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1700000000
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def valid(key: str) -> Members:
    return [(f"{key}.jpg", b"image of " + key.encode()), (f"{key}.txt", b"caption of " + key.encode())]


def save(folder: Path, data: bytes) -> str:
    path = folder / "shard 0.tar"
    path.write_bytes(data)
    return str(path)


def read(index: ShardIndex, start: int = 0, stop: int | None = None) -> list[Sample | Reject]:
    return list(read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries[start:stop]))


def outcome(folder: Path, data: bytes) -> list[tuple[str, str]]:
    """Return the key and the error ("" for a sample) of every sample in a tar."""
    results = read(index_shard(save(folder, data)))
    assert [result.index for result in results] == list(range(len(results)))
    return [(result.key, result.error if isinstance(result, Reject) else "") for result in results]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property test."""
    return tmp_path_factory.mktemp("shards")


def can_write(samples: list[Sample], format: int) -> bool:
    """Return False if the format cannot store a name, as ustar cannot store some long ones."""
    try:
        tar([file for sample in samples for file in members(sample)], format)
    except ValueError:
        return False
    return True


@settings(max_examples=60)
@given(samples=datasets(), format=st.sampled_from(FORMATS), cuts=st.tuples(st.integers(0, 6), st.integers(0, 6)))
def test_samples_are_read_back_in_any_slice(
    folder: Path, samples: list[Sample], format: int, cuts: tuple[int, int]
) -> None:
    if not can_write(samples, format):
        return
    index = index_shard(save(folder, tar([file for sample in samples for file in members(sample)], format)))
    start, stop = sorted(cuts)
    assert read(index) == samples
    assert read(index, start, stop) == samples[start:stop]
    assert read(index, 0, start) + read(index, start, stop) + read(index, stop) == samples


@settings(max_examples=120)
@given(samples=datasets(), format=st.sampled_from(FORMATS), data=st.data())
def test_a_truncated_shard_rejects_at_most_one_sample(
    folder: Path, samples: list[Sample], format: int, data: st.DataObject
) -> None:
    if not can_write(samples, format):
        return
    whole = tar([file for sample in samples for file in members(sample)], format)
    ends = [entry.end for entry in index_shard(save(folder, whole)).entries]
    boundary = data.draw(st.booleans(), label="at a block's boundary")
    cut = data.draw(st.integers(0, ends[-1] + 1024), label="cut")
    cut = cut // 512 * 512 if boundary else cut
    try:
        index = index_shard(save(folder, whole[:cut]))
    except ShardError:
        with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
            assert cut < archive.getmembers()[0].offset_data
        return
    results = read(index)
    if cut >= ends[-1] + 512:  # the end-of-archive marker is complete
        assert results == samples
        return
    assert results[:-1] == samples[: len(results) - 1]
    assert isinstance(results[-1], Reject)
    assert results[-1].error == "TruncatedShard"
    # All samples before the rejected one are read. It is the last that ends before the cut, or the next one.
    before = sum(end <= cut for end in ends)
    assert len(results) in (before, before + 1)
    assert all(entry.end <= cut for entry in index.entries)


@settings(max_examples=150)
@given(data=st.data())
def test_damage_raises_only_shard_error_and_keeps_earlier_samples(folder: Path, data: st.DataObject) -> None:
    """Any bytes are changed. The only exception is ShardError, and samples before the damage are unchanged."""
    whole = bytearray(
        tar([*valid("a"), *valid("b" * 150), *valid("é"), *valid("d")], data.draw(st.sampled_from(FORMATS[1:])))
    )
    offsets = data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4))
    healthy = read(index_shard(save(folder, bytes(whole))))
    ends = [entry.end for entry in index_shard(save(folder, bytes(whole))).entries]
    for offset in offsets:
        whole[offset] = data.draw(st.integers(0, 255))
    try:
        results = read(index_shard(save(folder, bytes(whole))))
    except ShardError:
        assert min(offsets) < 512
        return
    untouched = sum(end <= min(offsets) for end in ends)
    # The last sample before the damage is rejected if the damage hides its end.
    kept = untouched - (len(results) == untouched and isinstance(results[-1], Reject))
    assert len(results) >= untouched
    assert results[:kept] == healthy[:kept]


@settings(max_examples=40)
@given(samples=datasets())
def test_written_shards_are_deterministic_and_readable_by_webdataset(folder: Path, samples: list[Sample]) -> None:
    files = [(s.key, {name.rpartition(".")[2]: data for name, data in members(s)}) for s in samples]
    shard = write_shard(files)
    assert shard == write_shard((key, dict(reversed(found.items()))) for key, found in files)
    url = save(folder, shard)
    assert read(index_shard(url)) == samples
    theirs = [
        {name: value for name, value in sample.items() if not name.startswith("__")} | {"": sample["__key__"]}
        for sample in webdataset.WebDataset([url], shardshuffle=False)
    ]
    assert theirs == [{**found, "": key} for key, found in files]


def test_written_shards_have_no_user_and_no_time() -> None:
    shard = write_shard([("k", {"txt": b"t", "png": b"p", "json": b"{}"})])
    with tarfile.open(fileobj=io.BytesIO(shard)) as archive:
        infos = archive.getmembers()
    assert [info.name for info in infos] == ["k.json", "k.png", "k.txt"]
    assert {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in infos} == {(0, 0, 0, "", "", 0o644)}


@pytest.mark.parametrize("key", ["a.b", "__meta__/a", "../a", "/a", ".a", "a/"])
def test_write_shard_rejects_keys_that_readers_would_change(key: str) -> None:
    with pytest.raises(ValueError, match="rename"):
        write_shard([(key, {"txt": b""})])


@pytest.mark.parametrize("extension", ["TXT", "_x", "", "a/b"])
def test_write_shard_rejects_extensions_that_readers_would_change(extension: str) -> None:
    with pytest.raises(ValueError, match="rename"):
        write_shard([("key", {extension: b""})])


def test_write_shard_rejects_a_repeated_key() -> None:
    with pytest.raises(ValueError, match="twice"):
        write_shard([("a", {"txt": b""}), ("a", {"txt": b""})])


def test_an_image_is_never_combined_with_another_caption(tmp_path: Path) -> None:
    files = [("a.jpg", b"A"), ("b.txt", b"of b"), *valid("c"), ("d.png", b"D")]
    assert outcome(tmp_path, tar(files)) == [
        ("a", "MissingCaption"),
        ("b", "MissingImage"),
        ("c", ""),
        ("d", "MissingCaption"),
    ]


def test_the_first_sample_with_a_key_is_used(tmp_path: Path) -> None:
    files = [*valid("a"), ("a.jpg", b"again"), ("a.txt", b"again"), *valid("b"), ("a.json", b"{}"), *valid("c")]
    results = read(index_shard(save(tmp_path, tar(files))))
    assert [(r.key, getattr(r, "error", "")) for r in results] == [
        ("a", ""),
        ("a", "DuplicateKey"),
        ("b", ""),
        ("c", ""),
    ]
    assert results[0] == Sample(0, "a", b"image of a", "jpg", "caption of a", None)


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ([("a.jpg", b""), ("a.txt", b"t")], "EmptyMember"),
        ([("a.jpg", b"i"), ("a.png", b"i"), ("a.txt", b"t")], "SeveralImages"),
        ([("a.1.jpg", b"i"), ("a.1.txt", b"t"), ("a.1.cls", b"7")], "DottedKey"),
        ([("a.jpg", b"i"), ("a.txt", b"")], "MissingCaption"),
        ([("a.jpg", b"i"), ("a.txt", b"\xef\xbb\xbf \r\n")], "MissingCaption"),
        ([("a.jpg", b"i"), ("a.txt", b"caf\xe9")], "CaptionEncoding"),
        ([("a.jpg", b"i"), ("a.txt", b"t"), ("a.json", b"{")], "InvalidJson"),
        ([("a.jpg", b"i"), ("a.txt", b"t"), ("a.json", b"[]")], "InvalidJson"),
        ([("a.jpg", b"i"), ("a.txt", b"t"), ("a.json", b'{"a": "\xe9"}')], "InvalidJson"),
        ([("a.jpg", b"i"), ("a.txt", b"t"), ("a.json", b'{"a":' * 100_000)], "InvalidJson"),
        ([("a.jpg", b"i"), ("a.txt", b"t"), ("a.json", b'{"a": ' + b"9" * 5000 + b"}")], "InvalidJson"),
        ([("/a.jpg", b"i"), ("/a.txt", b"t")], "UnsafeMember"),
        ([("x/../a.jpg", b"i"), ("x/../a.txt", b"t")], "UnsafeMember"),
        ([("a\udce9.jpg", b"i"), ("a\udce9.txt", b"t")], "KeyEncoding"),
    ],
)
def test_an_invalid_sample_is_rejected_and_its_neighbours_are_read(tmp_path: Path, files: Members, error: str) -> None:
    results = read(index_shard(save(tmp_path, tar([*valid("first"), *files, *valid("last")], tarfile.GNU_FORMAT))))
    assert [type(result) for result in results] == [Sample, Reject, Sample]
    reject = results[1]
    assert isinstance(reject, Reject)
    assert (reject.error, reject.index, reject.shard) == (error, 1, str(tmp_path / "shard 0.tar"))
    assert f"{reject.key} {reject.message}".encode()  # can be stored


def test_a_long_name_of_an_unsafe_member_is_shortened_in_the_message(tmp_path: Path) -> None:
    name = "../" + "x" * 200_000
    (fault,) = [
        entry.fault for entry in index_shard(save(tmp_path, tar([(f"{name}.jpg", b"i")]))).entries if entry.fault
    ]
    assert fault.error == "UnsafeMember" and len(fault.message) < 400


def test_a_json_that_utf_8_cannot_encode_is_escaped() -> None:
    content = {"title": "犬", "cut": "\ud83d"}
    assert json.loads(json_member(content)) == content
    assert json_member({"title": "犬"}) == '{"title": "犬"}'.encode()


@settings(max_examples=60)
@given(samples=datasets(), data=st.data())
def test_samples_with_interleaved_members_are_complete(
    folder: Path, samples: list[Sample], data: st.DataObject
) -> None:
    files = [file for sample in samples for file in members(sample)]
    mixed = data.draw(st.permutations(files))
    index = index_shard(save(folder, tar(mixed)), digests=True)
    first = {sample.key: min(mixed.index(file) for file in members(sample)) for sample in samples}
    expected = sorted(samples, key=lambda sample: first[sample.key])
    expected = [dataclasses.replace(sample, index=i) for i, sample in enumerate(expected)]
    assert read(index) == expected
    start = data.draw(st.integers(0, len(samples)))
    assert read(index, start) == expected[start:]
    assert read(index, 0, start) == expected[:start]
    os.utime(index.url, (0, 0))  # so that the contents are compared
    assert read(index) == expected


def test_interleaved_samples_share_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All images come first, then all captions, as `tar` packs a folder that was written in this order."""
    files = [file for i in range(20) for file in valid(f"{i:02d}")]
    index = index_shard(save(tmp_path, tar([*files[::2], ("a.cls", bytes(2 << 20)), *files[1::2]])))
    ranges = count_ranges(monkeypatch)
    assert [type(sample) for sample in read(index, 0, 20)] == [Sample] * 20
    assert len(ranges) == 2
    monkeypatch.setattr("pipeline.io.samples.MAX_REQUEST", 5 * 2048)
    assert [type(sample) for sample in read(index, 0, 20)] == [Sample] * 20
    assert len(ranges) == 2 + 2 * 4


def test_a_name_with_dots_does_not_affect_other_images(tmp_path: Path) -> None:
    files = [*valid("a"), ("a.mask.png", b"m"), ("a.jpg.json", b"{}"), ("b.1.jpg", b"i"), ("b.2.jpg", b"i")]
    files += [
        ("b.2.txt", b"t"),
        *valid("a.2"),
        ("c.jpg", b"i"),
        ("c.caption.txt", b"t"),
        ("d.mp4", b"v"),
        *valid("d.x"),
    ]
    assert outcome(tmp_path, tar([*files, *valid("v1.5/e")])) == [
        ("a", ""),
        ("b.1", "DottedKey"),
        ("b.2", "DottedKey"),
        ("a.2", "DottedKey"),
        ("c", "MissingCaption"),
        ("d", "MissingImage"),
        ("d.x", "DottedKey"),
        ("v1.5/e", ""),
    ]


def test_messages_list_few_members(tmp_path: Path) -> None:
    index = index_shard(save(tmp_path, tar([(f"a.{i}{'x' * 90}", b"") for i in range(1000)])))
    assert [entry.fault and len(entry.fault.message) < 700 for entry in index.entries] == [True]


def test_a_missing_caption_message_mentions_captions_in_json(tmp_path: Path) -> None:
    (entry,) = index_shard(save(tmp_path, tar([("a.jpg", b"i"), ("a.json", b"{}")]))).entries
    assert entry.fault is not None
    assert "captions in a .json are not read: write it to a .txt" in entry.fault.message


def test_keys_have_no_dot_folders(tmp_path: Path) -> None:
    files = [(f"{prefix}{name}", data) for prefix in ("./", "./b/./", ".//c/") for name, data in valid("a")]
    assert outcome(tmp_path, tar(files)) == [("a", ""), ("b/a", ""), ("c/a", "")]


def test_digests_of_earlier_plans_are_recognised(tmp_path: Path) -> None:
    index = index_shard(save(tmp_path, tar(valid("a"))), digests=True)
    (name, image), (_, caption) = valid("a")
    earlier = hashlib.sha256(b"jpg %d\n%btxt %d\n%b" % (len(image), image, len(caption), caption)).digest()[:8]
    planned = ShardIndex(index.url, index.size, index.etag, (dataclasses.replace(index.entries[0], digest=earlier),))
    os.utime(index.url, (0, 0))
    assert read(planned) == read(index)
    assert name == "a.jpg"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_rejected(tmp_path: Path, kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("a.jpg", "b.jpg", "latest"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = (tarfile.REGTYPE if name == "a.jpg" else kind), "/etc/passwd"
            info.size = 1 if name == "a.jpg" else 0
            archive.addfile(info, io.BytesIO(b"i"))
    assert outcome(tmp_path, buffer.getvalue()) == [
        ("a", "MissingCaption"),
        ("b", "UnsafeMember"),
        ("latest", "UnsafeMember"),
    ]


def test_other_members_are_ignored(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        directory = tarfile.TarInfo("d.jpg")
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
        litter = [
            "._a.jpg",
            "__MACOSX/a.jpg",
            "x/__MACOSX/._a.jpg",
            ".DS_Store",
            "x/.DS_Store",
            "__index__",
            "README",
        ]
        for name in ["a.JPG", *litter, "a.txt"]:
            info = tarfile.TarInfo(name)
            info.size = 2
            archive.addfile(info, io.BytesIO(b"it"))
    [sample] = read(index_shard(save(tmp_path, buffer.getvalue())))
    assert sample == Sample(0, "a", b"it", "jpg", "it", None)


def test_captions_are_stripped_and_json_is_unchanged(tmp_path: Path) -> None:
    text = b'{"caption": "\\u00e9",  "b" : [1,2] }\r\n'
    files = [("a.png", b"i"), ("a.txt", b"\xef\xbb\xbf two\nlines \r\n\n"), ("a.json", text)]
    [sample] = read(index_shard(save(tmp_path, tar(files))))
    assert isinstance(sample, Sample)
    assert sample.caption == " two\nlines "
    assert sample.json is not None
    assert sample.json.encode() == text


def test_a_cut_between_members_gives_a_reject(tmp_path: Path) -> None:
    whole = tar([*valid("a"), *valid("b")])
    for cut, expected in {
        2 * 1024: [("a", "TruncatedShard")],  # complete, but the reader cannot know this
        3 * 1024: [("a", ""), ("b", "TruncatedShard")],
        3 * 1024 + 512 + 5: [("a", ""), ("b", "TruncatedShard")],
        4 * 1024: [("a", ""), ("b", "TruncatedShard")],
        4 * 1024 + 511: [("a", ""), ("b", "TruncatedShard")],
        4 * 1024 + 512: [("a", ""), ("b", "")],
    }.items():
        assert outcome(tmp_path, whole[:cut]) == expected


def test_a_cut_in_the_first_header_of_a_sample_gives_a_reject_without_a_key(tmp_path: Path) -> None:
    only_readme = tar([("README", b"x")])[:1024]
    assert outcome(tmp_path, only_readme) == [("", "TruncatedShard")]


def test_a_bad_header_rejects_the_sample_before_it(tmp_path: Path) -> None:
    whole = bytearray(tar([*valid("a"), *valid("b"), *valid("c")]))
    whole[3 * 1024 + 20] ^= 1  # in the name of b.txt
    assert outcome(tmp_path, bytes(whole)) == [("a", ""), ("b", "CorruptShard")]


def test_joined_tars_give_a_reject(tmp_path: Path) -> None:
    assert outcome(tmp_path, tar(valid("a")) + tar(valid("b"))) == [("a", ""), ("", "CorruptShard")]


def test_a_negative_size_does_not_cause_an_infinite_loop(tmp_path: Path) -> None:
    whole = bytearray(tar([*valid("a"), *valid("b")]))
    info = tarfile.TarInfo("b.jpg")
    info.size = -3072
    whole[2 * 1024 : 2 * 1024 + 512] = info.tobuf(tarfile.GNU_FORMAT)
    assert outcome(tmp_path, bytes(whole)) == [("a", "CorruptShard")]


def test_an_empty_tar_has_no_samples(tmp_path: Path) -> None:
    assert index_shard(save(tmp_path, tar([]))).entries == ()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"not a tar at all", "not a tar"),
        (b"x" * 20_000, "not a tar"),
        (gzip.compress(tar(valid("a"))), "gzip.*unpack"),
        (tar(valid("a"))[:300], "cut within its first header"),
        (bytes(20_480), "no member"),
        (tar([("README", bytes(20_480))]), "no member"),
    ],
)
def test_an_unusable_shard_is_an_error_with_its_name(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ShardError, match=rf"shard 0\.tar.*{message}"):
        index_shard(save(tmp_path, data))


def test_a_missing_shard_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"x\.tar: does not exist$"):
        index_shard(str(tmp_path / "x.tar"))
    with pytest.raises(ShardError, match="wildcards"):
        index_shard(str(tmp_path / "*.tar"))


def test_a_shard_may_be_a_symlink(tmp_path: Path) -> None:
    """The cache of the Hugging Face hub has such relative links to a file without an extension."""
    blob, link = tmp_path / "blobs" / "abcdef", tmp_path / "snapshots" / "0123" / "0.tar"
    for path in (blob, link):
        path.parent.mkdir(parents=True)
    blob.write_bytes(tar(valid("a")))
    link.symlink_to("../../blobs/abcdef")
    assert [type(sample) for sample in read(index_shard(str(link)))] == [Sample]


def test_a_shard_that_changed_after_planning_is_an_error(tmp_path: Path) -> None:
    index = index_shard(save(tmp_path, tar([*valid("a"), *valid("b")])))
    save(tmp_path, tar([*valid("a"), *valid("b"), *valid("c")] * 9))
    with pytest.raises(ShardChanged, match="put the planned version back"):
        read(index)
    save(tmp_path, b"short")  # the range begins beyond its end
    with pytest.raises(ShardChanged, match="put the planned version back"):
        read(index, 1)


def test_bytes_that_are_not_the_planned_sample_are_an_error(tmp_path: Path) -> None:
    planned = index_shard(save(tmp_path, tar([*valid("a"), *valid("b")])))
    for other in (
        [*valid("a"), *valid("c")],
        [*valid("a"), ("b.jpg", b""), ("b.txt", b"t")],
        [("x.jpg", bytes(1600))] * 2,
    ):
        now = index_shard(save(tmp_path, tar(other)))
        with pytest.raises(ShardChanged, match="put the planned version back"):
            list(read_samples(now.url, size=now.size, etag=now.etag, entries=planned.entries))


def test_a_slice_needs_one_request_and_faults_need_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_shard(save(tmp_path, tar([("x.jpg", b"i"), *valid("a"), *valid("b"), ("y.jpg", b"i")])))
    ranges = count_ranges(monkeypatch)
    assert len(read(index)) == 4
    assert ranges == [(index.entries[1].offset, index.entries[2].end)]
    assert len(read(index, 0, 1)) == 1
    assert len(ranges) == 1


VIDEO = bytes(3 << 20)


def count_ranges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list to which every range is added that is read from now on."""
    ranges = []
    read_range = storage.read_range

    def counting(location: str, start: int, end: int) -> tuple[bytes, storage.Head]:
        ranges.append((start, end))
        return read_range(location, start, end)

    monkeypatch.setattr(storage, "read_range", counting)
    return ranges


@pytest.mark.parametrize("position", [0, 1, 2])
def test_long_unused_members_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, position: int) -> None:
    files = []
    for key in "abc":
        some = valid(key)
        some.insert(position, (f"{key}.mp4", VIDEO))
        files += some
    index = index_shard(save(tmp_path, tar(files)))
    ranges = count_ranges(monkeypatch)
    assert read(index) == [
        Sample(i, key, f"image of {key}".encode(), "jpg", f"caption of {key}", None) for i, key in enumerate("abc")
    ]
    assert sum(end - start for start, end in ranges) == sum(entry.bytes_read for entry in index.entries) == 3 * 4 * 512
    assert len(ranges) == (4 if position == 1 else 3)  # a caption and the next image share a request


def test_short_unused_members_share_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [file for key in "abc" for file in [*valid(key), (f"{key}.cls", b"7"), (f"{key}.npy", bytes(100_000))]]
    index = index_shard(save(tmp_path, tar(files)))
    assert all(entry.gaps == () for entry in index.entries)
    ranges = count_ranges(monkeypatch)
    assert [type(sample) for sample in read(index)] == [Sample] * 3
    assert len(ranges) == 1


def test_the_size_of_a_request_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_shard(save(tmp_path, tar([file for i in range(20) for file in valid(f"{i:02d}")])))
    whole = read(index)
    monkeypatch.setattr(storage, "MAX_REQUEST", 5 * 2048)
    ranges = count_ranges(monkeypatch)
    assert read(index) == whole
    assert ranges == [(start, start + 5 * 2048) for start in range(0, 20 * 2048, 5 * 2048)]


def test_memory_depends_only_on_used_members(tmp_path: Path) -> None:
    """The shard has sixteen videos of 50 MiB, and is a sparse file."""
    header = tarfile.TarInfo()
    header.size = 50 << 20
    path = tmp_path / "a.tar"
    with open(path, "wb") as file:
        for i in range(16):
            header.name = f"{i}.mp4"
            file.write(tar(valid(str(i)))[: 4 * 512] + header.tobuf())
            file.seek(header.size, os.SEEK_CUR)
        file.write(bytes(1024))
    index = index_shard(str(path), digests=True)
    tracemalloc.start()
    assert [type(sample) for sample in read(index)] == [Sample] * 16
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_sample_that_is_too_large_is_rejected(tmp_path: Path) -> None:
    header = tarfile.TarInfo("b.jpg")
    header.size = MAX_SAMPLE
    path = tmp_path / "a.tar"
    with open(path, "wb") as file:
        file.write(tar(valid("a"))[: 4 * 512] + header.tobuf())
        file.seek(header.size, os.SEEK_CUR)
        file.write(tar([("b.txt", b"t"), *valid("c")]))
    index = index_shard(str(path), digests=True)
    assert [entry.fault and entry.fault.error for entry in index.entries] == [None, "OversizedSample", None]
    assert [type(sample) for sample in read(index)] == [Sample, Reject, Sample]


def test_only_changed_samples_of_a_new_version_are_an_error(tmp_path: Path) -> None:
    whole = tar([*valid("a"), *valid("b"), ("b.cls", b"1"), *valid("c")])
    index = index_shard(save(tmp_path, whole), digests=True)
    planned = read(index)
    changed = bytearray(whole)
    changed[whole.index(b"image of b")] ^= 1
    save(tmp_path, bytes(changed))
    assert read(index, 0, 1) + read(index, 2) == [planned[0], planned[2]]
    with pytest.raises(ShardChanged, match=r"sample 1 \('b'\) has changed since the shard was planned"):
        read(index, 1, 2)
    unused = bytearray(whole)
    unused[2048 + 2048 + 512] ^= 1  # in the .cls member, which no row has
    save(tmp_path, bytes(unused))
    assert read(index) == planned


def test_without_digests_a_touched_shard_is_an_error(tmp_path: Path) -> None:
    index = index_shard(save(tmp_path, tar([*valid("a"), *valid("b")])))
    os.utime(index.url, (0, 0))
    with pytest.raises(ShardChanged, match="has no digest to compare"):
        read(index)


def test_expand_shards() -> None:
    assert expand_shards("p/{00008..00010}.tar") == ["p/00008.tar", "p/00009.tar", "p/00010.tar"]
    assert expand_shards(["s3://b/{x,y}.tar", "z z.tar"]) == ["s3://b/x.tar", "s3://b/y.tar", "z z.tar"]
    assert expand_shards(r"a\{1\}.tar") == ["a{1}.tar"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "no shard"),
        ("", "location is empty"),
        ("{0..3.tar", r"\{0\.\.3\.tar: the braces"),
        (["a.tar", "{a,b}.tar"], r"a\.tar: is named twice"),
        (["a.tar", "./x/../a.tar"], "named twice"),
        ("pipe:curl x", "pipe:curl x: pipes"),
        ("hf://x/y.tar", "hf://x/y.tar: hf:// is not supported"),
    ],
)
def test_expand_shards_rejects_invalid_inputs(inputs: str | list[str], message: str) -> None:
    with pytest.raises(ShardError, match=message):
        expand_shards(inputs)
