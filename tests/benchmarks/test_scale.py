"""The benchmarks of large jobs run with few units."""

from pathlib import Path

from benchmarks.scale.driver import run_simulated
from benchmarks.scale.store import SHARD, UNIT, measure


def test_simulated_job_commits_every_unit(tmp_path: Path) -> None:
    found = run_simulated(20, 4, tmp_path)
    assert found["units"] == 20
    assert found["scheduling_seconds"] > 0


def test_store_is_planned_committed_and_complete(tmp_path: Path) -> None:
    found = measure(2 * SHARD, tmp_path)
    assert found["files"]["commits"]["files"] == 2 * SHARD
    assert found["steps"][0]["step"] == f"plan {2 * SHARD * UNIT:,} samples in 2 shards"
