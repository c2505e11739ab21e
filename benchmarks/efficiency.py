"""How much of the machine a run uses: pictures a second of `edict run` over those of a bare loop over the model.

`python -m benchmarks.efficiency`. The loop is a process of one thread that holds the model and decoded batches, and
encodes and inverts one batch after the other; for several workers it is as many processes at once. The run has the same
pictures in a shard, in the same batches. Loop and run take turns, and a ratio is one of the same round. At guidance 1
and few steps: what is not the network weighs the more, the less there is to ask of it.

For several workers, too, the machine's best single process, as a person without a cluster would run it: one loop of as
many threads, in batches of several sizes, of which the fastest counts.

The run's rate is that from its first batch to its last commit, as the commits tell; with start-up, that of the whole
command over the loop's without. Where the workers' time went is by the commits, too.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice, pairwise
from pathlib import Path
from statistics import median
from threading import Barrier
from typing import Any

import torch

from benchmarks import dataplane
from benchmarks.record import numbers, save
from edict import EDICT
from jobs.evaluation.record import table
from pipeline.inspect.status import status
from pipeline.io.images import prepare
from pipeline.io.shards import ShardIndex
from pipeline.store.store import Store
from schemas.commit import Commit

SPAWN = multiprocessing.get_context("spawn")

SPENT = ("compute", "read", "write", "commit", "between units", "before its first", "after its last")

Figures = dict[str, float]


def loop(
    index: ShardIndex, given: Namespace, batch: int, threads: int, part: slice, ready: Barrier
) -> tuple[float, float]:
    """Invert the batches `part` of a shard's, when all are ready; when that began and ended."""
    torch.set_num_threads(threads)
    model = EDICT.from_pretrained()
    samples = dataplane.read(index)
    images = [prepare(sample.image, model.size, "center").image for sample in samples]
    ready.wait()
    began = time.time()
    for first in range(0, len(samples), batch)[part]:
        captions = [sample.caption for sample in samples[first : first + batch]]
        model.invert(images[first : first + batch], captions, steps=given.steps, guidance_scale=given.guidance)
    return began, time.time()


def bare(index: ShardIndex, given: Namespace, batch: int, *, processes: int, threads: int) -> float:
    """Pictures a second of as many loops at once, which share the batches."""
    parts = [slice(process, None, processes) for process in range(processes)]
    with SPAWN.Manager() as manager, ProcessPoolExecutor(processes, SPAWN) as pool:
        ready = manager.Barrier(processes)
        spans = [pool.submit(loop, index, given, batch, threads, part, ready) for part in parts]
        began, ended = zip(*(span.result() for span in spans), strict=True)
    return len(index.entries) / (max(ended) - min(began))


def run(index: ShardIndex, given: Namespace, workers: int) -> Figures:
    """The figures of a job, run by the command."""
    with tempfile.TemporaryDirectory() as folder:
        spec = {
            "kind": "invert",
            "input": index.url,
            "output": f"{folder}/latents",
            "sampler": {"steps": given.steps, "guidance_scale": given.guidance},
            "workers": {"count": workers, "batch_size": given.batch},
        }
        Path(folder, "spec.json").write_text(json.dumps(spec))
        command = [sys.executable, "-c", "from jobs.cli import app; app()", "run", f"{folder}/spec.json"]
        began = time.time()
        subprocess.run(command, check=True, capture_output=True)
        ended = time.time()
        store = Store(f"{folder}/latents")
        assert status(store).ok == len(index.entries)
        commits = list(store.commits())
    first, last = min(map(first_batch, commits)), max(commit.finished for commit in commits)
    return {
        "images_per_second": len(index.entries) / (last - first),
        "images_per_second_with_start_up": len(index.entries) / (ended - began),
        "images_per_second_of_compute": workers * len(index.entries) / sum(c.seconds.compute for c in commits),
        "seconds_to_first_batch": first - began,
        "seconds_after_last_commit": ended - last,
        **shares(commits, workers),
    }


def first_batch(commit: Commit) -> float:
    """When a unit was read."""
    return commit.started + commit.seconds.read


def shares(commits: Sequence[Commit], workers: int) -> Figures:
    """Where the workers' time went, from the first batch to the last commit; they add up to 1."""
    of_worker = defaultdict[str, list[Commit]](list)
    for commit in sorted(commits, key=lambda commit: commit.started):
        of_worker[commit.worker["pid"]].append(commit)
    assert len(of_worker) == workers
    first, last = min(map(first_batch, commits)), max(commit.finished for commit in commits)
    compute, write = (sum(getattr(commit.seconds, name) for commit in commits) for name in ("compute", "write"))
    steps = [pair for own in of_worker.values() for pair in pairwise(own)]
    seconds = {
        "compute": compute,
        "read": sum(after.seconds.read for _, after in steps),
        "write": write,
        "commit": sum(commit.finished - first_batch(commit) for commit in commits) - compute - write,
        "between units": sum(after.started - before.finished for before, after in steps),
        "before its first": sum(first_batch(own[0]) - first for own in of_worker.values()),
        "after its last": sum(last - own[-1].finished for own in of_worker.values()),
    }
    return {name: value / (workers * (last - first)) for name, value in seconds.items()}


def summary(
    workers: int, loops: Sequence[float], runs: Sequence[Figures], singles: Mapping[int, Sequence[float]]
) -> dict[str, Any]:
    """Medians of rounds; `efficiency` is the ratio of a run's rate to that of its round's loop.

    `singles` are the rates of single processes, by batch.
    """

    def ratios(rate: str) -> list[float]:
        return [run[rate] / loop for loop, run in zip(loops, runs, strict=True)]

    best = max(singles, key=lambda batch: median(singles[batch]), default=None)
    single: dict[str, Any] = {}
    if best is not None:
        of_single = [run["images_per_second"] / rate for run, rate in zip(runs, singles[best], strict=True)]
        single = {
            "single_images_per_second": {str(batch): median(rates) for batch, rates in singles.items()},
            "best_single_batch": best,
            "of_best_single": median(of_single),
            "of_best_singles": of_single,
        }
    return single | {
        "workers": workers,
        "loop_images_per_second": median(loops),
        "efficiency": median(ratios("images_per_second")),
        "efficiencies": ratios("images_per_second"),
        "efficiency_with_start_up": median(ratios("images_per_second_with_start_up")),
        "efficiency_of_compute": median(ratios("images_per_second_of_compute")),
        **{name: median(run[name] for run in runs) for name in runs[0]},
    }


def beside_single(row: Mapping[str, Any]) -> str:
    """How the workers' rate stands to that of one process."""
    rates = ", ".join(f"{rate:.2f} at {batch}" for batch, rate in row["single_images_per_second"].items())
    interval = f"[{min(row['of_best_singles']):.3f}, {max(row['of_best_singles']):.3f}]"
    return (
        f"one process of {row['workers']} threads, pictures/s by batch: {rates}; "
        f"{row['workers']} workers make {row['of_best_single']:.3f} {interval} of the best"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    arguments.add_argument("--workers", type=numbers, default=[1, 2])
    arguments.add_argument("--pictures", type=int, default=128, help="a worker; whole batches")
    arguments.add_argument("--batch", type=int, default=16, help="pictures a network call")
    arguments.add_argument("--single-batches", type=numbers, default=[16, 32, 64], help="of a single process")
    arguments.add_argument("--steps", type=int, default=10)
    arguments.add_argument("--guidance", type=float, default=1.0)
    arguments.add_argument("--rounds", type=int, default=2)
    given = arguments.parse_args()
    loops, runs = defaultdict[int, list[float]](list), defaultdict[int, list[Figures]](list)
    singles: dict[int, dict[int, list[float]]] = {
        workers: {batch: [] for batch in given.single_batches} if workers > 1 else {} for workers in given.workers
    }
    with tempfile.TemporaryDirectory() as folder:
        images = cycle(dataplane.shipped())
        shards = {
            workers: dataplane.shard(
                Path(folder, f"{workers}.tar"), "png", list(islice(images, workers * given.pictures))
            )
            for workers in given.workers
        }
        for _ in range(given.rounds):
            for workers, index in shards.items():
                loops[workers].append(bare(index, given, given.batch, processes=workers, threads=1))
                runs[workers].append(run(index, given, workers))
                for batch, rates in singles[workers].items():
                    rates.append(bare(index, given, batch, processes=1, threads=workers))
    rows = [summary(workers, loops[workers], runs[workers], singles[workers]) for workers in given.workers]
    head = (
        "workers",
        "loop, pictures/s",
        "run",
        "run / loop",
        "of compute alone",
        "with start-up",
        "s to the first batch",
        "s after the last commit",
    )
    lines = []
    for row in rows:
        interval = f"[{min(row['efficiencies']):.3f}, {max(row['efficiencies']):.3f}]"
        both = [f"{row[name]:.2f}" for name in ("loop_images_per_second", "images_per_second")]
        ratios = [f"{row[name]:.3f}" for name in ("efficiency_of_compute", "efficiency_with_start_up")]
        ends = [f"{row[name]:.1f}" for name in ("seconds_to_first_batch", "seconds_after_last_commit")]
        lines.append([row["workers"], *both, f"{row['efficiency']:.3f} {interval}", *ratios, *ends])
    print(table(head, lines))
    for row in rows:
        if "of_best_single" in row:
            print("\n" + beside_single(row))
    print("\nwhere the workers' time went, from the first batch to the last commit; all but compute is idle")
    print(table(("workers", *SPENT), [[row["workers"], *(f"{row[name]:.2%}" for name in SPENT)] for row in rows]))
    print(f"\nwritten to {save('efficiency', given, rows=rows)}")


if __name__ == "__main__":
    main()
