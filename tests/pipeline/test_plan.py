"""The plan of an inversion: units by batches and bytes, and plans of earlier versions."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.plan import UNIT_BYTES, Unit, cut, most_batches, plan_shards, read_entries, write_entries
from pipeline.shards import Entry, Sample, index_shard, read_samples, write_shard
from pipeline.store import Store, StoreError
from schemas.plan import ADDED, ENTRIES
from schemas.rejects import Reject

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


def test_members_that_are_not_read_do_not_count() -> None:
    skipped = [
        Entry(i, f"{i}", i * 200 * MIB, (i + 1) * 200 * MIB, None, ((i * 200 * MIB, i * 200 * MIB + 199 * MIB),))
        for i in range(16)
    ]
    rejected = [Entry(i, f"{i}", 0, 200 * MIB, Reject("a.tar", i, f"{i}", "index", "E", "m")) for i in range(16)]
    assert most_batches(skipped, 4) == most_batches(rejected, 4) == 4


def shard(path: Path, *keys: str) -> str:
    path.write_bytes(
        write_shard((key, {"png": f"image of {key}".encode(), "txt": b"a", "mp4": bytes(2 * MIB)}) for key in keys)
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
    store.put_table(path, store.get_table(path).drop_columns(sorted(ADDED)))
    unit = Unit("00000000", url, 0, 1, 2, index.size, index.etag)
    found = read_entries(store, unit)
    assert [(entry.key, entry.gaps, entry.digest) for entry in found] == [("b", (), None), ("c", (), None)]
    samples = read_samples(url, size=index.size, etag=index.etag, entries=found)
    assert [sample.image for sample in samples if isinstance(sample, Sample)] == [b"image of b", b"image of c"]
    store.put_table(path, pa.table({name: [] for name in ENTRIES.names if name != "key"}))
    with pytest.raises(StoreError, match="its columns are not those of a plan"):
        read_entries(store, unit)
