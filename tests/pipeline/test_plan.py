"""The plan of an inversion: units by batches and bytes, and plans of earlier versions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.io.samples import Sample, read_samples
from pipeline.io.shard_index import Entry, index_shard
from pipeline.io.shard_writer import write_shard
from pipeline.plan.units import UNIT_BYTES, cut, index_again, most_batches, plan_shards
from pipeline.store.errors import StoreError
from pipeline.store.plan import Unit, find_entries, read_entries, write_entries
from pipeline.store.store import Store
from schemas.plan import ADDED_COLUMNS, ENTRIES
from schemas.rejects import Reject
from tests.pipeline.helpers import Members, ShardOf, complete_members

MIB = 1 << 20


def entries(*sizes: int) -> list[Entry]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [Entry(i, f"{i}", end - size, end, None) for i, (size, end) in enumerate(zip(sizes, ends, strict=True))]


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([MIB] * 64, 4),
        ([16 * MIB] * 64, 4),  # 4 batches of 4 are exactly UNIT_BYTES
        ([17 * MIB] * 64, 3),
        ([30 * MIB] * 64, 2),
        ([200 * MIB] * 64, 1),
        ([MIB] * 60 + [200 * MIB] * 4, 1),
        ([], 4),
    ],
)
def test_a_unit_is_bounded_by_bytes(sizes: list[int], batches: int) -> None:
    assert most_batches(entries(*sizes), 4) == batches
    units = cut([("a.tar", len(sizes), sum(sizes), None)], 4, 1, [batches])
    assert [unit.first % 4 for unit in units] == [0] * len(units)
    assert sum(unit.count for unit in units) == len(sizes)
    for unit in units:
        assert sum(sizes[unit.first : unit.first + unit.count]) <= UNIT_BYTES or unit.count == 4


@pytest.mark.parametrize(
    ("per_row", "rows"),
    [(1, 64), (4, 64), (5, 48), (8, 32), (16, 16), (17, 15), (40, 6), (1.5, 64), (300, 1), (10_000, 1)],
)
def test_a_unit_of_edits_is_bounded_by_images(per_row: float, rows: int) -> None:
    """A unit has at most 16 batches of 16 images, in whole batches of rows if they fit."""
    units = cut([("parts/a.parquet", 1000, 1, None)], 16, 1, per_row=per_row)
    assert {unit.count for unit in units[:-1]} == {rows}
    assert sum(unit.count for unit in units) == 1000
    assert rows == 1 or rows * per_row <= 16 * 16


def test_members_that_are_not_read_do_not_count_as_bytes() -> None:
    skipped = [
        Entry(i, f"{i}", i * 200 * MIB, (i + 1) * 200 * MIB, None, ((i * 200 * MIB, i * 200 * MIB + 199 * MIB),))
        for i in range(16)
    ]
    rejected = [Entry(i, f"{i}", 0, 200 * MIB, Reject("a.tar", i, f"{i}", "index", "E", "m")) for i in range(16)]
    assert most_batches(skipped, 4) == most_batches(rejected, 4) == 4


def shard(path: Path, *keys: str) -> str:
    path.write_bytes(
        write_shard((key, {"jpg": f"image of {key}".encode(), "txt": b"a", "mp4": bytes(2 * MIB)}) for key in keys)
    )
    return str(path)


def test_entries_are_read_as_they_were_written(tmp_path: Path) -> None:
    url = shard(tmp_path / "a.tar", "a", "b", "c")
    store = Store(str(tmp_path / "store"), create=True)
    units = plan_shards(store, url, 2, 1)
    index = index_shard(url, digests=True)
    assert [entry for unit in units for entry in read_entries(store, unit)] == list(index.entries)
    assert all(entry.gaps and entry.digest for entry in index.entries)


def test_a_plan_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    url = shard(tmp_path / "a.tar", "a", "b", "c")
    store = Store(str(tmp_path / "store"), create=True)
    index = index_shard(url)
    write_entries(store, index)
    (path,) = store.names("plan/shards")
    store.put_table(path, store.get_table(path).drop_columns(sorted(ADDED_COLUMNS)))
    unit = Unit("00000000", url, 0, 1, 2, index.size, index.etag)
    found = read_entries(store, unit)
    assert [(entry.key, entry.gaps, entry.digest) for entry in found] == [("b", (), None), ("c", (), None)]
    samples = read_samples(url, size=index.size, etag=index.etag, entries=found)
    assert [sample.image for sample in samples if isinstance(sample, Sample)] == [b"image of b", b"image of c"]
    store.put_table(path, pa.table({name: [] for name in ENTRIES.names if name != "key"}))
    with pytest.raises(StoreError, match="its columns are not those of a plan"):
        read_entries(store, unit)


def found(store: Store, units: list[Unit]) -> list[tuple[int, str, str]]:
    """Return the index, key and error ("" for a sample) of everything in units, as a retry reads it."""
    results = []
    for unit in units:
        version, there = find_entries(store, unit)
        for result in read_samples(unit.source, size=version.size, etag=version.etag, entries=there):
            error = "" if isinstance(result, Sample) else result.error
            results.append((result.index, result.key, error))
            assert isinstance(result, Sample) or result.shard == unit.source
            key = result.key.removeprefix("./")
            assert not isinstance(result, Sample) or result.image == f"png of {key}".encode()
    return results


@pytest.fixture(params=["disk", "s3"])
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Path], str]:
    """Return a function that copies a shard to the location where it is read, on this disk or on S3."""
    if request.param == "disk":
        return lambda path: str(shutil.copy(path, tmp_path / "input.tar"))
    shards = Store(request.getfixturevalue("s3"), create=True)
    return lambda path: f"{shards.location}/{shards.put('input.tar', path.read_bytes()).path}"


@pytest.mark.parametrize(
    ("before", "after", "expected", "more"),
    [
        # The missing caption was added, and everything behind it has moved.
        (
            [*complete_members("a"), ("b.png", b"png of b"), *complete_members("c")],
            complete_members("a", "b", "c"),
            [(0, "a", ""), (1, "b", ""), (2, "c", "")],
            0,
        ),
        # A sample was removed, one is new, and the others are in another order.
        (
            [*complete_members("a"), ("b.png", b"png of b"), *complete_members("c", "d")],
            complete_members("d", "e", "c", "b"),
            [(0, "a", "MissingSample"), (1, "b", ""), (2, "c", ""), (3, "d", "")],
            1,
        ),
        # A key that occurred twice occurs once.
        (
            complete_members("a", "b", "a"),
            complete_members("b", "a"),
            [(0, "a", ""), (1, "b", ""), (2, "a", "MissingSample")],
            0,
        ),
        # One of two samples was repaired.
        (
            [("a.png", b"png of a"), ("b.png", b"png of b")],
            [*complete_members("b"), ("a.png", b"png of a")],
            [(0, "a", "MissingCaption"), (1, "b", "")],
            0,
        ),
    ],
)
def test_samples_of_a_repaired_shard_are_found_by_key(
    tmp_path: Path,
    put: Callable[[Path], str],
    shard_of: ShardOf,
    capsys: pytest.CaptureFixture[str],
    before: Members,
    after: Members,
    expected: list[tuple[int, str, str]],
    more: int,
) -> None:
    url = put(shard_of(tmp_path / "a.tar", before))
    store = Store(str(tmp_path / "store"), create=True)
    units = plan_shards(store, url, 2, 1)
    index_again(store, units)  # Nothing was replaced.
    assert len(list(store.names("plan/shards"))) == 1
    assert "note" not in capsys.readouterr().err
    planned = found(store, units)
    put(shard_of(tmp_path / "a.tar", after))
    index_again(store, units)
    said = capsys.readouterr().err
    assert "note: 1 shards were replaced since they were planned" in said
    assert (f"note: {more} samples of the new versions were not planned" in said) == bool(more)
    assert found(store, units) == expected
    put(shard_of(tmp_path / "a.tar", before))
    index_again(store, units)
    assert found(store, units) == planned


def test_keys_of_an_earlier_plan_are_found_without_their_leading_dot(
    tmp_path: Path, shard_of: ShardOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier plans have the "./" that `tar -C folder .` writes, in their rows and rejects too."""
    before = [(f"./{name}", data) for name, data in [*complete_members("a"), ("b.png", b"png of b"), ("b.json", b"{}")]]
    url = str(shard_of(tmp_path / "a.tar", before))
    store = Store(str(tmp_path / "store"), create=True)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.io.tar.clean_name", lambda name: name)
        units = plan_shards(store, url, 2, 1)
    assert found(store, units) == [(0, "./a", ""), (1, "./b", "MissingCaption")]
    shard_of(tmp_path / "a.tar", [*before, ("./b.txt", b"txt of b")])
    index_again(store, units)
    assert found(store, units) == [(0, "./a", ""), (1, "./b", "")]


def test_a_truncated_shard_that_is_replaced(
    tmp_path: Path, shard_of: ShardOf, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shard_of(tmp_path / "a.tar", complete_members("a", "b", "c", "d")).read_bytes()
    path = tmp_path / "b.tar"
    path.write_bytes(data[: 2 * 2048 - 700])
    store = Store(str(tmp_path / "store"), create=True)
    units = plan_shards(store, str(path), 2, 1)
    assert found(store, units) == [(0, "a", ""), (1, "b", "TruncatedShard")]
    path.write_bytes(data)
    index_again(store, units)
    assert found(store, units) == [(0, "a", ""), (1, "b", "")]
    assert "note: 2 samples of the new versions were not planned" in capsys.readouterr().err


def test_a_shard_that_cannot_be_used_is_named_and_the_others_are_retried(
    tmp_path: Path, shard_of: ShardOf, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [("a.png", b"png of a")]
    names = [str(shard_of(tmp_path / f"{i}.tar", broken)) for i in range(3)]
    store = Store(str(tmp_path / "store"), create=True)
    units = plan_shards(store, names, 2, 1)
    (tmp_path / "0.tar").unlink()
    (tmp_path / "1.tar").write_bytes(b"<html>")
    shard_of(tmp_path / "2.tar", complete_members("a"))
    index_again(store, units)
    said = capsys.readouterr().err
    assert f"note: {names[0]}: does not exist" in said
    assert f"note: {names[1]}: is a web page" in said
    assert found(store, units[2:]) == [(0, "a", "")]
