"""Cut the power at random moments of a run, and finish the job with the same command and the data on the disk.

`python -m benchmarks.power --cuts 30`, as root on Linux: an ext4 filesystem in a file is mounted through a loop
device. A job over 20 real images on the default model writes its store there. The file is copied at random moments: up
to half a second after a random number of commits, which may be zero, or up to 10 seconds after the end of the run. Data
that a process wrote without a sync is not in the copy, as after a power loss. Each copy is then mounted at the same
path, and the same spec is run again. At the end each store is compared with that of an undisturbed run, row by row, by
the sha256 of all the data of a row.

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
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import ray

from benchmarks.campaign import job, write_shards
from benchmarks.contents import contents
from benchmarks.record import parser, save
from jobs.evaluation.record import table
from jobs.launch import run_spec
from pipeline.inspect.status import status
from pipeline.io.storage import write_file
from pipeline.store.store import Store
from schemas.specs import InvertSpec

MIB = 64  # size of the disk
UNITS = 6  # of the job
WHILE_RUNNING = 0.5  # seconds after a commit, or after the start of the run, during which the power may be cut
AFTER = 10.0  # seconds after the end of a run, during which the power may be cut too
CUTS_PER_RUN = 6
SHM = Path("/dev/shm")  # the disk is a file there, so that a copy takes a moment


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[None]:
    """Mount a filesystem that is in a file, for as long as the context lasts."""
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
    copies = list[tuple[Path, str]]()
    ended = threading.Event()

    def run() -> None:
        try:
            assert run_spec(spec).status.complete
        finally:
            ended.set()

    with mounted(disk, disk_at):
        running = threading.Thread(target=run)
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
    """Return the counts over `cuts` power cuts."""
    chance, total = random.Random(seed), Counter[str]()
    states = list[str]()
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
                    there = Store(spec.output).has("job.json") if Path(spec.output).is_dir() else False
                    before = status(Store(spec.output)) if there else None
                    total["files of 0 bytes"] += sum(
                        path.is_file() and not path.stat().st_size for path in disk_at.rglob("latents/**/*")
                    )
                    total["complete runs that the cut undid"] += state == "complete" and not (
                        before and before.complete
                    )
                    total["runs that did not complete"] += not run_spec(spec).status.complete
                    store = Store(spec.output)
                    found, named = contents(store), {file.path for commit in store.commits() for file in commit.files}
                    total["rows lost"] += len(expected.keys() - found.keys())
                    total["rows doubled"] += found.total() - len(found)
                    total["rows that differ"] += len(found.keys() - expected.keys())
                    total["files that no commit names"] += len(set(store.names("parts")) ^ named)
                    attempts = status(store).attempts
                states.append(f"{state}; {before.committed if before else 0} units on the disk")
                print(f"{len(states)}/{cuts}: at {states[-1]}; {attempts} attempts in all", flush=True)
                image.unlink()
    ends = ("complete runs that the cut undid", "runs that did not complete")
    kinds = ("rows lost", "rows doubled", "rows that differ", "files that no commit names", "files of 0 bytes", *ends)
    return {"cuts": cuts, **{kind: total[kind] for kind in kinds}, "at": states}


def sync_cost(folder: Path, sizes: Sequence[int] = (1_000, 100_000, 10_000_000)) -> list[dict[str, float]]:
    """Return the milliseconds of a write with and without syncing, in turn, by bytes."""
    rows = []
    for size in sizes:
        data, times = os.urandom(size), {True: list[float](), False: list[float]()}
        for number in range(40):
            for synced in (True, False):
                with patch("os.fsync", os.fsync if synced else lambda _: None):
                    began = time.perf_counter()
                    write_file(folder / f"{size}-{number}-{synced}", data, new=True)
                    times[synced].append(1000 * (time.perf_counter() - began))
        synced_ms, plain_ms = median(times[True]), median(times[False])
        rows.append({"bytes": size, "ms": synced_ms, "ms without syncing": plain_ms, "ratio": synced_ms / plain_ms})
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--cuts", type=int, default=30, help="number of power cuts")
    arguments.add_argument("--seed", type=int, default=1, help="seed of the random moments")
    arguments.add_argument("--folder", type=Path, default=Path(), help="on the disk on which syncing is measured")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        cost = sync_cost(Path(folder))
    print(table(list(cost[0]), [tuple(f"{value:.4g}" for value in row.values()) for row in cost]))
    ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR)
    figures = cut_power(given.cuts, given.seed)
    print(table(["", ""], [(name, value) for name, value in figures.items() if name != "at"]))
    given.folder = str(given.folder)
    print(save("power", given, **figures, cost=cost))
    raise SystemExit(1 if any(value for name, value in figures.items() if name not in ("cuts", "at")) else 0)


if __name__ == "__main__":
    main()
