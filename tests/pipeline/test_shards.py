"""Shards, as foreign writers and ours make them, whole and damaged."""

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
    """Samples that a strict reader returns as they are."""
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
    """A sample's files, in the order img2dataset has them."""
    found = [(sample.extension, sample.image)]
    if sample.json is not None:
        found.append(("json", sample.json.encode()))
    return [(f"{sample.key}.{name}", data) for name, data in [*found, ("txt", sample.caption.encode())]]


def tar(files: Members, format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar as the standard library writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1700000000
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def good(key: str) -> Members:
    return [(f"{key}.jpg", b"image of " + key.encode()), (f"{key}.txt", b"caption of " + key.encode())]


def save(folder: Path, data: bytes) -> str:
    path = folder / "shard 0.tar"
    path.write_bytes(data)
    return str(path)


def read(index: ShardIndex, start: int = 0, stop: int | None = None) -> list[Sample | Reject]:
    return list(read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries[start:stop]))


def outcome(folder: Path, data: bytes) -> list[tuple[str, str]]:
    """Key and error ("" for a sample) of everything in a tar."""
    results = read(index_shard(save(folder, data)))
    assert [result.index for result in results] == list(range(len(results)))
    return [(result.key, result.error if isinstance(result, Reject) else "") for result in results]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("shards")


def can_write(samples: list[Sample], format: int) -> bool:
    """ustar has no room for some long names."""
    try:
        tar([file for sample in samples for file in members(sample)], format)
    except ValueError:
        return False
    return True


@settings(max_examples=60)
@given(samples=datasets(), format=st.sampled_from(FORMATS), cuts=st.tuples(st.integers(0, 6), st.integers(0, 6)))
def test_everything_written_is_read_in_any_slice(
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
def test_a_shard_cut_anywhere_loses_one_sample_at_most(
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
    if cut >= ends[-1] + 512:  # the end-of-archive marker is there
        assert results == samples
        return
    assert results[:-1] == samples[: len(results) - 1]
    assert isinstance(results[-1], Reject)
    assert results[-1].error == "TruncatedShard"
    # Every sample before the one open at the cut is there: the open one is the last that ends before it, or the next.
    before = sum(end <= cut for end in ends)
    assert len(results) in (before, before + 1)
    assert all(entry.end <= cut for entry in index.entries)


@settings(max_examples=150)
@given(data=st.data())
def test_damage_anywhere_is_survived(folder: Path, data: st.DataObject) -> None:
    """Whatever bytes are changed: no exception but ShardError, and samples before the damage are untouched."""
    whole = bytearray(
        tar([*good("a"), *good("b" * 150), *good("é"), *good("d")], data.draw(st.sampled_from(FORMATS[1:])))
    )
    places = data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4))
    healthy = read(index_shard(save(folder, bytes(whole))))
    ends = [entry.end for entry in index_shard(save(folder, bytes(whole))).entries]
    for place in places:
        whole[place] = data.draw(st.integers(0, 255))
    try:
        results = read(index_shard(save(folder, bytes(whole))))
    except ShardError:
        assert min(places) < 512
        return
    untouched = sum(end <= min(places) for end in ends)
    # The last one before the damage is lost where the damage hides whether it goes on.
    kept = untouched - (len(results) == untouched and isinstance(results[-1], Reject))
    assert len(results) >= untouched
    assert results[:kept] == healthy[:kept]


@settings(max_examples=40)
@given(samples=datasets())
def test_our_shards_are_deterministic_and_read_by_webdataset(folder: Path, samples: list[Sample]) -> None:
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


def test_our_shards_carry_no_trace_of_writer_or_time() -> None:
    shard = write_shard([("k", {"txt": b"t", "png": b"p", "json": b"{}"})])
    with tarfile.open(fileobj=io.BytesIO(shard)) as archive:
        infos = archive.getmembers()
    assert [info.name for info in infos] == ["k.json", "k.png", "k.txt"]
    assert {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in infos} == {(0, 0, 0, "", "", 0o644)}


@pytest.mark.parametrize("key", ["a.b", "__meta__/a", "../a", "/a", ".a", "a/"])
def test_names_that_would_not_be_read_back_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="rename"):
        write_shard([(key, {"txt": b""})])


@pytest.mark.parametrize("extension", ["TXT", "_x", "", "a/b"])
def test_extensions_that_would_not_be_read_back_are_refused(extension: str) -> None:
    with pytest.raises(ValueError, match="rename"):
        write_shard([("key", {extension: b""})])


def test_a_key_cannot_be_written_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        write_shard([("a", {"txt": b""}), ("a", {"txt": b""})])


def test_an_image_never_joins_the_next_caption(tmp_path: Path) -> None:
    files = [("a.jpg", b"A"), ("b.txt", b"of b"), *good("c"), ("d.png", b"D")]
    assert outcome(tmp_path, tar(files)) == [
        ("a", "MissingCaption"),
        ("b", "MissingImage"),
        ("c", ""),
        ("d", "MissingCaption"),
    ]


def test_the_first_of_a_key_stands(tmp_path: Path) -> None:
    files = [*good("a"), ("a.jpg", b"again"), ("a.txt", b"again"), *good("b"), ("a.json", b"{}"), *good("c")]
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
def test_one_bad_sample_is_rejected_and_its_neighbours_are_not(tmp_path: Path, files: Members, error: str) -> None:
    results = read(index_shard(save(tmp_path, tar([*good("first"), *files, *good("last")], tarfile.GNU_FORMAT))))
    assert [type(result) for result in results] == [Sample, Reject, Sample]
    reject = results[1]
    assert isinstance(reject, Reject)
    assert (reject.error, reject.index, reject.shard) == (error, 1, str(tmp_path / "shard 0.tar"))
    assert f"{reject.key} {reject.message}".encode()  # can be stored


def test_a_long_name_of_an_unsafe_member_is_cut_short(tmp_path: Path) -> None:
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
def test_samples_whose_members_lie_apart_are_whole(folder: Path, samples: list[Sample], data: st.DataObject) -> None:
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
    os.utime(index.url, (0, 0))  # The contents are then compared.
    assert read(index) == expected


def test_samples_that_lie_among_each_other_share_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All images come first, then all captions, as `tar` packs a folder that was written in this order."""
    files = [file for i in range(20) for file in good(f"{i:02d}")]
    index = index_shard(save(tmp_path, tar([*files[::2], ("a.cls", bytes(2 << 20)), *files[1::2]])))
    ranges = counted(monkeypatch)
    assert [type(sample) for sample in read(index, 0, 20)] == [Sample] * 20
    assert len(ranges) == 2
    monkeypatch.setattr("pipeline.io.samples.MAX_REQUEST", 5 * 2048)
    assert [type(sample) for sample in read(index, 0, 20)] == [Sample] * 20
    assert len(ranges) == 2 + 2 * 4


def test_a_name_with_dots_costs_no_other_image(tmp_path: Path) -> None:
    files = [*good("a"), ("a.mask.png", b"m"), ("a.jpg.json", b"{}"), ("b.1.jpg", b"i"), ("b.2.jpg", b"i")]
    files += [("b.2.txt", b"t"), *good("a.2"), ("c.jpg", b"i"), ("c.caption.txt", b"t"), ("d.mp4", b"v"), *good("d.x")]
    assert outcome(tmp_path, tar([*files, *good("v1.5/e")])) == [
        ("a", ""),
        ("b.1", "DottedKey"),
        ("b.2", "DottedKey"),
        ("a.2", "DottedKey"),
        ("c", "MissingCaption"),
        ("d", "MissingImage"),
        ("d.x", "DottedKey"),
        ("v1.5/e", ""),
    ]


def test_messages_name_few_members(tmp_path: Path) -> None:
    index = index_shard(save(tmp_path, tar([(f"a.{i}{'x' * 90}", b"") for i in range(1000)])))
    assert [entry.fault and len(entry.fault.message) < 700 for entry in index.entries] == [True]


def test_a_caption_in_the_json_is_hinted_at(tmp_path: Path) -> None:
    (entry,) = index_shard(save(tmp_path, tar([("a.jpg", b"i"), ("a.json", b"{}")]))).entries
    assert entry.fault is not None
    assert "captions in a .json are not read: write it to a .txt" in entry.fault.message


def test_keys_have_no_dot_folders(tmp_path: Path) -> None:
    files = [(f"{prefix}{name}", data) for prefix in ("./", "./b/./", ".//c/") for name, data in good("a")]
    assert outcome(tmp_path, tar(files)) == [("a", ""), ("b/a", ""), ("c/a", "")]


def test_digests_of_earlier_plans_are_recognised(tmp_path: Path) -> None:
    index = index_shard(save(tmp_path, tar(good("a"))), digests=True)
    (name, image), (_, caption) = good("a")
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


def test_what_is_no_member_is_passed_over(tmp_path: Path) -> None:
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


def test_captions_and_json(tmp_path: Path) -> None:
    text = b'{"caption": "\\u00e9",  "b" : [1,2] }\r\n'
    files = [("a.png", b"i"), ("a.txt", b"\xef\xbb\xbf two\nlines \r\n\n"), ("a.json", text)]
    [sample] = read(index_shard(save(tmp_path, tar(files))))
    assert isinstance(sample, Sample)
    assert sample.caption == " two\nlines "
    assert sample.json is not None
    assert sample.json.encode() == text


def test_a_cut_at_a_members_boundary_leaves_a_reject(tmp_path: Path) -> None:
    whole = tar([*good("a"), *good("b")])
    for cut, expected in {
        2 * 1024: [("a", "TruncatedShard")],  # complete, but nobody knows
        3 * 1024: [("a", ""), ("b", "TruncatedShard")],
        3 * 1024 + 512 + 5: [("a", ""), ("b", "TruncatedShard")],
        4 * 1024: [("a", ""), ("b", "TruncatedShard")],
        4 * 1024 + 511: [("a", ""), ("b", "TruncatedShard")],
        4 * 1024 + 512: [("a", ""), ("b", "")],
    }.items():
        assert outcome(tmp_path, whole[:cut]) == expected


def test_a_shard_that_breaks_off_in_an_unknown_sample_says_so(tmp_path: Path) -> None:
    only_readme = tar([("README", b"x")])[:1024]
    assert outcome(tmp_path, only_readme) == [("", "TruncatedShard")]


def test_a_bad_header_costs_the_sample_open_there(tmp_path: Path) -> None:
    whole = bytearray(tar([*good("a"), *good("b"), *good("c")]))
    whole[3 * 1024 + 20] ^= 1  # in the name of b.txt
    assert outcome(tmp_path, bytes(whole)) == [("a", ""), ("b", "CorruptShard")]


def test_joined_tars_do_not_lose_the_second_unnoticed(tmp_path: Path) -> None:
    assert outcome(tmp_path, tar(good("a")) + tar(good("b"))) == [("a", ""), ("", "CorruptShard")]


def test_a_negative_size_does_not_loop(tmp_path: Path) -> None:
    whole = bytearray(tar([*good("a"), *good("b")]))
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
        (gzip.compress(tar(good("a"))), "gzip.*unpack"),
        (tar(good("a"))[:300], "cut within its first header"),
        (bytes(20_480), "no member"),
        (tar([("README", bytes(20_480))]), "no member"),
    ],
)
def test_what_is_no_shard_is_an_error_that_names_it(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ShardError, match=rf"shard 0\.tar.*{message}"):
        index_shard(save(tmp_path, data))


def test_a_missing_shard_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"x\.tar: does not exist$"):
        index_shard(str(tmp_path / "x.tar"))
    with pytest.raises(ShardError, match="wildcards"):
        index_shard(str(tmp_path / "*.tar"))


def test_a_shard_may_be_a_symlink(tmp_path: Path) -> None:
    """The cache of the Hugging Face hub has such relative links to a file without an extension."""
    blob, link = tmp_path / "blobs" / "abcdef", tmp_path / "snapshots" / "0123" / "0.tar"
    for path in (blob, link):
        path.parent.mkdir(parents=True)
    blob.write_bytes(tar(good("a")))
    link.symlink_to("../../blobs/abcdef")
    assert [type(sample) for sample in read(index_shard(str(link)))] == [Sample]


def test_a_shard_changed_since_planning_is_refused(tmp_path: Path) -> None:
    index = index_shard(save(tmp_path, tar([*good("a"), *good("b")])))
    save(tmp_path, tar([*good("a"), *good("b"), *good("c")] * 9))
    with pytest.raises(ShardChanged, match="put the planned version back"):
        read(index)
    save(tmp_path, b"short")  # the range lies beyond its end
    with pytest.raises(ShardChanged, match="put the planned version back"):
        read(index, 1)


def test_bytes_that_are_not_the_planned_sample_are_refused(tmp_path: Path) -> None:
    planned = index_shard(save(tmp_path, tar([*good("a"), *good("b")])))
    for other in (
        [*good("a"), *good("c")],
        [*good("a"), ("b.jpg", b""), ("b.txt", b"t")],
        [("x.jpg", bytes(1600))] * 2,
    ):
        now = index_shard(save(tmp_path, tar(other)))
        with pytest.raises(ShardChanged, match="put the planned version back"):
            list(read_samples(now.url, size=now.size, etag=now.etag, entries=planned.entries))


def test_a_slice_is_one_request_and_faults_need_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_shard(save(tmp_path, tar([("x.jpg", b"i"), *good("a"), *good("b"), ("y.jpg", b"i")])))
    ranges = counted(monkeypatch)
    assert len(read(index)) == 4
    assert ranges == [(index.entries[1].offset, index.entries[2].end)]
    assert len(read(index, 0, 1)) == 1
    assert len(ranges) == 1


VIDEO = bytes(3 << 20)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The ranges that are read from now on."""
    ranges = []
    read_range = storage.read_range

    def counting(location: str, start: int, end: int) -> tuple[bytes, storage.Head]:
        ranges.append((start, end))
        return read_range(location, start, end)

    monkeypatch.setattr(storage, "read_range", counting)
    return ranges


@pytest.mark.parametrize("place", [0, 1, 2])
def test_long_unused_members_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    files = []
    for key in "abc":
        some = good(key)
        some.insert(place, (f"{key}.mp4", VIDEO))
        files += some
    index = index_shard(save(tmp_path, tar(files)))
    ranges = counted(monkeypatch)
    assert read(index) == [
        Sample(i, key, f"image of {key}".encode(), "jpg", f"caption of {key}", None) for i, key in enumerate("abc")
    ]
    assert sum(end - start for start, end in ranges) == sum(entry.bytes_read for entry in index.entries) == 3 * 4 * 512
    assert len(ranges) == (4 if place == 1 else 3)  # a caption and the next image are neighbours


def test_short_unused_members_share_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [file for key in "abc" for file in [*good(key), (f"{key}.cls", b"7"), (f"{key}.npy", bytes(100_000))]]
    index = index_shard(save(tmp_path, tar(files)))
    assert all(entry.gaps == () for entry in index.entries)
    ranges = counted(monkeypatch)
    assert [type(sample) for sample in read(index)] == [Sample] * 3
    assert len(ranges) == 1


def test_a_request_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_shard(save(tmp_path, tar([file for i in range(20) for file in good(f"{i:02d}")])))
    whole = read(index)
    monkeypatch.setattr(storage, "MAX_REQUEST", 5 * 2048)
    ranges = counted(monkeypatch)
    assert read(index) == whole
    assert ranges == [(start, start + 5 * 2048) for start in range(0, 20 * 2048, 5 * 2048)]


def test_memory_is_that_of_the_used_members(tmp_path: Path) -> None:
    """Sixteen videos of 50 MiB, as a sparse file."""
    header = tarfile.TarInfo()
    header.size = 50 << 20
    path = tmp_path / "a.tar"
    with open(path, "wb") as file:
        for i in range(16):
            header.name = f"{i}.mp4"
            file.write(tar(good(str(i)))[: 4 * 512] + header.tobuf())
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
        file.write(tar(good("a"))[: 4 * 512] + header.tobuf())
        file.seek(header.size, os.SEEK_CUR)
        file.write(tar([("b.txt", b"t"), *good("c")]))
    index = index_shard(str(path), digests=True)
    assert [entry.fault and entry.fault.error for entry in index.entries] == [None, "OversizedSample", None]
    assert [type(sample) for sample in read(index)] == [Sample, Reject, Sample]


def test_only_samples_whose_content_differs_are_refused(tmp_path: Path) -> None:
    whole = tar([*good("a"), *good("b"), ("b.cls", b"1"), *good("c")])
    index = index_shard(save(tmp_path, whole), digests=True)
    planned = read(index)
    changed = bytearray(whole)
    changed[whole.index(b"image of b")] ^= 1
    save(tmp_path, bytes(changed))
    assert read(index, 0, 1) + read(index, 2) == [planned[0], planned[2]]
    with pytest.raises(ShardChanged, match=r"sample 1 \('b'\) has changed since the shard was planned"):
        read(index, 1, 2)
    unused = bytearray(whole)
    unused[2048 + 2048 + 512] ^= 1  # the class, which no row has
    save(tmp_path, bytes(unused))
    assert read(index) == planned


def test_without_digests_a_touched_shard_is_refused(tmp_path: Path) -> None:
    index = index_shard(save(tmp_path, tar([*good("a"), *good("b")])))
    os.utime(index.url, (0, 0))
    with pytest.raises(ShardChanged, match="has no digest to compare"):
        read(index)


def test_expand() -> None:
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
def test_expand_refuses(inputs: str | list[str], message: str) -> None:
    with pytest.raises(ShardError, match=message):
        expand_shards(inputs)
