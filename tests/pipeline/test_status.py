"""The status of a store: its counts with and without the ledger, its speed, its run and its stragglers."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.inspect.status import covered_seconds, describe_run, status
from pipeline.store import paths
from pipeline.store.checkpoint import CheckpointWriter
from pipeline.store.errors import StoreError
from pipeline.store.files import table_bytes
from pipeline.store.paths import unit_retry
from pipeline.store.plan import Unit, write_units
from pipeline.store.run_log import RunLog
from pipeline.store.store import Store
from schemas.commit import Commit, File, Seconds
from schemas.rejects import Reject

COUNT = 4  # samples per unit


def commit(
    number: int, *, retry: int = 0, rejects: int = 0, seconds: float = 8.0, on: str | None = None, **versions: str
) -> Commit:
    left_out = tuple(Reject("a.tar", i, f"key{i}", "invert", "WorkerDied", "no") for i in range(rejects))
    count = 1 if retry else COUNT
    return Commit(
        unit=f"{number:08d}",
        retry=retry,
        errors=("WorkerDied",) if retry else (),
        attempt=f"{unit_retry(f'{number:08d}', retry)}-2-0123abcd",
        source="a.tar",
        input=count,
        ok=count - rejects,
        rejected=rejects,
        filtered=0,
        files=(File(path=f"parts/{number}-{retry}.parquet", sha256="0" * 64, bytes=1, rows=count - rejects),),
        rejects=left_out,
        seconds=Seconds(read=1, compute=6, write=1),
        started=100.0 + 10 * number,
        finished=100.0 + 10 * number + seconds,
        worker={"host": "a", "pid": "1", "device": "cpu"} | ({"processor": on} if on else {}),
        versions=versions,
    )


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Store]:
    """Return a function that makes a store with this number of units. A block of its ledger has two units."""
    monkeypatch.setattr(paths, "BLOCK_SIZE", 2)

    def make(units: int) -> Store:
        store = Store(str(tmp_path / "store"), create=True)
        store.put("job.json", json.dumps({"kind": "invert", "spec": {}, "fingerprint": {}, "machine": {}}).encode())
        write_units(store, [Unit(f"{i:08d}", "a.tar", 0, i * COUNT, COUNT, 1, None) for i in range(units)])
        for i in range(units):
            store.put(f"parts/{i}-0.parquet", b"1")
        return store

    return make


def compact(store: Store, units: int, done: list[int]) -> None:
    """Finish these units of a run, of those that are pending."""
    pending = [f"{i:08d}" for i in range(units) if f"{i:08d}" not in store.committed_units()]
    with CheckpointWriter(store, units, pending, store.key()) as ledger:
        for number in done:
            store.commit(commit(number))
            ledger.done(f"{number:08d}")


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 3, 4, 1]])
def test_the_ledger_does_not_change_the_commits(order: list[int], planned: Callable[[int], Store]) -> None:
    store = planned(5)
    compact(store, 5, order)
    units = [f"{i:08d}" for i in sorted(order)]
    assert store.checkpoint_blocks() == ([0, 1] if 0 in order else [1])
    assert sorted(store.committed_units()) == units
    assert sorted((c.unit, c) for c in store.commits()) == [(f"{i:08d}", commit(i)) for i in sorted(order)]


def test_the_next_run_compacts_a_block_that_a_dead_driver_left(planned: Callable[[int], Store]) -> None:
    store = planned(4)
    for number in (0, 1, 2):
        store.commit(commit(number))
    compact(store, 4, [3])
    assert store.checkpoint_blocks() == [0, 1]


def test_a_retry_counts_for_units_inside_and_outside_the_ledger(planned: Callable[[int], Store]) -> None:
    store = planned(3)
    for number in range(3):
        store.commit(commit(number, rejects=1))
    store.write_checkpoint(0, store.key())
    for number in (0, 2):
        store.commit(commit(number, retry=1))
    assert [(c.ok, c.rejected, c.retry) for c in store.commits()] == [(4, 0, 1), (3, 1, 0), (4, 0, 1)]


def test_the_commit_of_a_file_is_found(planned: Callable[[int], Store]) -> None:
    store = planned(2)
    first, second = commit(1, rejects=1), commit(1, retry=1)
    for each in (first, second):
        store.commit(each)
        assert store.commit_of_file(f"parts/{each.attempt}.parquet") == each
    assert second.retry == 1
    with pytest.raises(StoreError, match=r"commits/00000000\.json does not exist"):
        store.commit_of_file(f"parts/{commit(0).attempt}.parquet")


def test_several_environments_are_noted(planned: Callable[[int], Store]) -> None:
    store = planned(5)
    for number in (0, 1):
        store.commit(commit(number, on="NVIDIA A100", torch="2.13.0", diffusers="0.42.1"))
    assert status(store).notes == []
    store.write_checkpoint(0, store.key())
    store.commit(commit(2, on="NVIDIA H200", torch="2.14.0", diffusers="0.42.1"))
    found = status(store)
    assert found.notes == [
        "units were made with 2 kinds of processor or versions, whose last bits may differ: 2 on NVIDIA A100 with "
        "torch 2.13.0; 1 on NVIDIA H200 with torch 2.14.0"
    ]
    assert found.problems == []
    store.commit(commit(3, torch="2.13.0", diffusers="0.42.1"))
    (line,) = status(store).notes
    assert line.endswith("1 on an unrecorded processor with torch 2.13.0")


def test_a_damaged_ledger_is_ignored_and_written_again(planned: Callable[[int], Store]) -> None:
    store = planned(2)
    compact(store, 2, [0, 1])
    whole = store.get("ledger/000000.parquet")
    for damaged in (store.get_table("ledger/000000.parquet").slice(0, 1), None):
        store.put("ledger/000000.parquet", b"" if damaged is None else table_bytes(damaged))
        assert [c.unit for c in store.commits()] == ["00000000", "00000001"]
        assert store.committed_units() == {"00000000", "00000001"}
        compact(store, 2, [])
        assert store.get("ledger/000000.parquet") == whole


def test_the_time_left_and_stragglers(planned: Callable[[int], Store]) -> None:
    store = planned(4)
    for number in (0, 1):
        store.commit(commit(number))
    now = time.time()
    run_log = RunLog(store)
    run_log.state = lambda: {
        "queued": 0,
        "workers": 2,
        "starting": 0,
        "at_work": [
            {"unit": "00000002", "samples": COUNT, "node": "abc", "since": now - 60},
            {"unit": "00000003", "samples": COUNT, "node": "def", "since": now - 10},
        ],
    }
    run_log.tick()
    found = status(store)
    assert (found.complete, found.attempts, found.images_per_second) == (False, 4, 0.5)
    assert found.eta_seconds == 16.0
    assert [line[:13] for line in found.stragglers] == ["unit 00000002"]
    assert found.run is not None
    assert "2 workers, 0 starting, 0 units wait" in describe_run(found.run)
    assert "its driver is silent" in describe_run({**found.run, "time": now - 1000})


def test_the_end_of_a_run_is_described(planned: Callable[[int], Store]) -> None:
    store = planned(2)
    with pytest.raises(ZeroDivisionError), RunLog(store):
        raise ZeroDivisionError("by a test")
    found = status(store)
    assert found.run is not None
    assert describe_run(found.run).endswith("ended 0 s ago: ZeroDivisionError: by a test")
    assert found.stragglers == []


def test_the_rate_without_commits_and_with_rejects_only(planned: Callable[[int], Store]) -> None:
    store = planned(3)
    found = status(store)
    assert (found.images_per_second, found.eta_seconds) == (None, None)
    store.commit(commit(0, rejects=COUNT))
    found = status(store)
    assert (found.ok, found.images_per_second, found.eta_seconds) == (0, 0.0, 16.0)


@pytest.mark.parametrize(
    "times",
    [
        {"started": 1000.0, "finished": 900.0},
        {"started": 100.0, "finished": 100.0 + 3600},
        {"started": time.time() + 5000, "finished": time.time() + 5008},
        {"started": -1e300, "finished": 8.0},
    ],
)
def test_a_rate_of_clocks_that_contradict_each_other_is_unknown(
    planned: Callable[[int], Store], times: dict[str, float]
) -> None:
    """The seconds of an attempt, here 8, are measured by a monotonic clock."""
    store = planned(3)
    store.commit(commit(0))
    assert status(store).images_per_second == 0.5
    store.commit(commit(1).model_copy(update=times))
    found = status(store)
    assert (found.ok, found.images_per_second, found.eta_seconds) == (2 * COUNT, None, None)


def test_a_later_retry_does_not_change_the_rate(planned: Callable[[int], Store]) -> None:
    store = planned(1)
    store.commit(commit(0, rejects=1))
    store.commit(commit(0, retry=1).model_copy(update={"started": 1e6, "finished": 1e6 + 8}))
    assert status(store).images_per_second == 0.5


def test_a_driver_whose_clock_is_wrong(planned: Callable[[int], Store]) -> None:
    store = planned(2)
    store.commit(commit(0))
    for offset, said in ((7200.0, "at an unknown time"), (-7200.0, "its driver is silent")):
        now = time.time() + offset
        work = [{"unit": "00000001", "samples": COUNT, "node": "abc", "since": now - 10}]
        state = {"run": "9", "host": "h", "time": now, "ended": None, "workers": 1, "starting": 0, "queued": 0}
        store.put("runs/9.json", json.dumps({**state, "at_work": work}).encode())
        found = status(store)
        assert found.run is not None
        assert said in describe_run(found.run)
        assert "-" not in describe_run(found.run)
        assert found.stragglers == (
            [] if offset > 0 else ["unit 00000001 on node abc for 130 s; the usual time is 8 s"]
        )


@pytest.mark.parametrize(
    ("spans", "seconds"), [([], 0), ([(0, 2)], 2), ([(5, 6), (0, 4), (1, 2), (3, 5.5)], 6), ([(0, 1), (2, 3)], 2)]
)
def test_covered_seconds(spans: list[Any], seconds: float) -> None:
    assert covered_seconds(spans) == seconds
