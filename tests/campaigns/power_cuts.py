"""Cut the power at random moments of a run, and finish the job with the same command and the data on the disk.

`python -m tests.campaigns.power_cuts --cuts 30`, as root on Linux. A job over 20 images with the shipped model writes
its store to an ext4 filesystem in a file, which is mounted through a loop device. The file is copied at random moments:
up to half a second after a random number of commits, which may be zero, or up to 10 seconds after the end of the run.
Data that a process wrote without a sync is not in the copy, as after a power loss. Each copy is then mounted at the
same path, and the same spec is run again. At the end each store is compared with that of an undisturbed run, row by
row, by the sha256 of all the data of a row.

It also measures the time that syncing takes, on the disk of --folder.
"""

import logging
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import ray

from benchmarks.harness import alternate, program, run, save, seconds, show
from jobs.launch import run_spec
from pipeline.inspect.status import status
from pipeline.io.local_files import write_file
from pipeline.store.store import Store
from schemas.specs import InvertSpec
from tests.campaigns import RESULTS
from tests.campaigns.kills import job, write_shards
from tests.contents import contents, faults

MIB = 64  # size of the disk
UNITS = 6  # of the job
WHILE_RUNNING = 0.5  # seconds after a commit, or after the start of the run, during which the power may be cut
AFTER = 10.0  # seconds after the end of a run, during which the power may be cut too
CUTS_PER_RUN = 6
SHM = Path("/dev/shm")  # The disk is a file there, so that a copy takes a moment.


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[None]:
    """Mount a filesystem that is in a file within the block."""
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def cut_run(spec: InvertSpec, disk: Path, disk_at: Path, cuts: int, chance: random.Random) -> list[tuple[Path, str]]:
    """Run the spec on a new disk. Return copies of the disk at random moments, each with the moment in words."""
    with disk.open("wb") as file:
        file.truncate(MIB << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)
    copies, ended = list[tuple[Path, str]](), threading.Event()

    def run_job() -> None:
        try:
            assert run_spec(spec).status.complete
        finally:
            ended.set()

    with mounted(disk, disk_at):
        running = threading.Thread(target=run_job)
        running.start()
        commits = Path(spec.output, "commits")
        after_end = cuts // 3
        moments = sorted(chance.randrange(UNITS) for _ in range(cuts - after_end))
        for number in range(cuts):
            if number < len(moments):
                while len(list(commits.glob("*.json"))) < moments[number] and not ended.wait(0.002):
                    pass
                ended.wait(chance.uniform(0, WHILE_RUNNING))
            else:
                running.join()
                time.sleep(chance.uniform(0, AFTER / after_end))
            state = "complete" if ended.is_set() else f"{len(list(commits.glob('*.json')))} commits"
            copies.append((disk.with_suffix(f".{number}"), state))
            shutil.copyfile(disk, copies[-1][0])
        running.join()
    return copies


def cut_power(cuts: int, seed: int) -> dict[str, Any]:
    """Return the counts of faults over `cuts` power cuts."""
    chance, total, states = random.Random(seed), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir=SHM) as disks:
        shards, disk_at = write_shards(Path(folder)), Path(folder) / "disk"
        disk_at.mkdir()
        undisturbed, spec = job(shards, f"{folder}/undisturbed"), job(shards, str(disk_at / "latents"))
        assert run_spec(undisturbed).status.complete
        expected = contents(Store(undisturbed.output))
        while len(states) < cuts:
            some = min(CUTS_PER_RUN, cuts - len(states))
            for image, state in cut_run(spec, Path(disks) / "disk", disk_at, some, chance):
                with mounted(image, disk_at):
                    there = Path(spec.output).is_dir() and Store(spec.output).has("job.json")
                    before = status(Store(spec.output)) if there else None
                    files = [path for path in disk_at.rglob("latents/**/*") if path.is_file()]
                    total["files_of_0_bytes"] += sum(not path.stat().st_size for path in files)
                    total["complete_runs_undone"] += state == "complete" and not (before and before.complete)
                    total["runs_not_completed"] += not run_spec(spec).status.complete
                    total += faults(Store(spec.output), expected)
                    attempts = status(Store(spec.output)).attempts
                states.append(f"{state}; {before.committed if before else 0} units on the disk")
                print(f"{len(states)}/{cuts}: at {states[-1]}; {attempts} attempts in all", flush=True)
                image.unlink()
    kinds = ["rows_lost", "rows_doubled", "rows_differing", "files_left_over", "files_of_0_bytes"]
    kinds += ["complete_runs_undone", "runs_not_completed"]
    return {"cuts": cuts, **{kind: total[kind] for kind in kinds}, "at": states}


def sync_cost(folder: Path, sizes: Sequence[int] = (1_000, 100_000, 10_000_000)) -> list[dict[str, float]]:
    """Return the milliseconds of a write with and without syncing, in turn, by bytes."""

    def write(data: bytes, synced: bool) -> float:
        with patch("os.fsync", os.fsync if synced else lambda _: None), tempfile.TemporaryDirectory(dir=folder) as new:
            return 1000 * seconds(lambda: write_file(Path(new, "file"), data, new=True))

    rows = []
    for size in sizes:
        data = os.urandom(size)
        rounds = alternate(40, {synced: partial(write, data, synced) for synced in (True, False)})
        synced_ms, plain_ms = median(rounds[True]), median(rounds[False])
        rows.append({"bytes": size, "ms": synced_ms, "ms without syncing": plain_ms, "ratio": synced_ms / plain_ms})
    return rows


@program(cuts=30, seed=1, folder=Path())
def power_cuts(given: Namespace) -> None:
    cost = sync_cost(given.folder)
    show(cost, {name: f"{name}:.4g" for name in cost[0]})
    ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR)
    figures = cut_power(given.cuts, given.seed)
    counts = {name: count for name, count in figures.items() if name != "at"}
    show([{"": name.replace("_", " "), "count": count} for name, count in counts.items()], {"": "", "count": "count"})
    save(RESULTS / "power_cuts", given, **figures, cost=cost)
    raise SystemExit(1 if any(count for name, count in counts.items() if name != "cuts") else 0)


if __name__ == "__main__":
    run(__doc__, power_cuts)
