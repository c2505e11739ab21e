"""Keys that repeat across shards, even if they exceed the memory limit."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.plan import keys
from pipeline.plan.keys import KeysError, key_table


def test_repeated_keys_of_several_shards_are_found() -> None:
    with key_table() as table:
        table.add("b.tar", ["cat", "犬/é", "b", "b"])
        table.add("a.tar", ["cat", "a"])
        table.add("c.tar", ["犬/é", "cat"])
        table.add("b.tar", ["b"])
        assert table.repeated() == (2, [("cat", "a.tar", "c.tar"), ("犬/é", "b.tar", "c.tar")])
        assert table.repeated(1) == (2, [("cat", "a.tar", "c.tar")])
        table.add("d.tar", ["a"])
        assert table.repeated(1) == (3, [("a", "a.tar", "d.tar")])


def test_repeated_keys_are_found_beyond_the_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MEMORY", "64MB")
    monkeypatch.setattr(keys, "GROUP_SIZE", 100_000)
    with key_table() as table, ThreadPoolExecutor(4) as pool:
        names = [[f"{'long' * 20}{shard:03d}{i:06d}" for i in range(20_000)] for shard in range(40)]  # 70 MB
        list(pool.map(table.add, map(str, range(40)), names))
        table.add("again", [names[7][5]])
        assert table.repeated() == (1, [(names[7][5], "7", "again")])
        table.add("again", [names[8][5]])
        assert table.repeated(1) == (2, [(names[7][5], "7", "again")])


def test_keys_that_do_not_fit_on_the_disk_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MEMORY", "5MB")
    with pytest.raises(KeysError, match="Set TMPDIR"), key_table() as table:
        for shard in range(100):
            table.add(str(shard), [f"{shard}{'x' * 1_000_000}"])
            table.repeated()
