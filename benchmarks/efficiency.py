"""Share of the machine that a run uses: the images per second of `edict run` over those of a plain loop.

`python -m benchmarks.efficiency`. The loop is a process of one thread with the model and decoded images. It encodes and
inverts one batch after the other; for several workers there are as many processes at once. The run has the same images
in a shard, and the same batches. Loop and run take turns, and a ratio is of one round. The steps are few and guidance
is 1, so that everything except the network weighs more.

With several workers, it also measures the best single process: one loop with as many threads, in several batch sizes.

The run's rate is from its first batch to its last commit, according to the commits. With start-up, it is the rate of
the whole command over that of the loop without its start-up.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import cycle, islice, pairwise
from pathlib import Path
from statistics import median
from threading import Barrier
from typing import Any

import torch

from benchmarks.dataplane.data import shard
from benchmarks.harness import EDICT as COMMAND
from benchmarks.harness import alternate, program, ratios, read, run, save, shipped_samples, show, spread
from edict import EDICT
from pipeline.inspect.status import status
from pipeline.io.images import prepare
from pipeline.io.shard_index import ShardIndex
from pipeline.store.store import Store
from schemas.commit import Commit

SPAWN = multiprocessing.get_context("spawn")
SHARES = ("compute", "read", "write", "commit", "between units", "before its first", "after its last")

Figures = dict[str, float]


def loop(
    index: ShardIndex, given: Namespace, batch: int, threads: int, part: slice, ready: Barrier
) -> tuple[float, float]:
    """Invert the batches `part` of a shard when all processes are ready. Return the times of the start and the end."""
    torch.set_num_threads(threads)
    model, samples = EDICT.from_pretrained(), read(index)
    images = [prepare(sample.image, model.size, "center").image for sample in samples]
    ready.wait()
    began = time.time()
    for first in range(0, len(samples), batch)[part]:
        captions = [sample.caption for sample in samples[first : first + batch]]
        model.invert(images[first : first + batch], captions, steps=given.steps, guidance_scale=given.guidance)
    return began, time.time()


def run_loops(index: ShardIndex, given: Namespace, batch: int, *, processes: int, threads: int) -> float:
    """Return the images per second of loops in several processes, which share the batches."""
    parts = [slice(process, None, processes) for process in range(processes)]
    with SPAWN.Manager() as manager, ProcessPoolExecutor(processes, SPAWN) as pool:
        ready = manager.Barrier(processes)
        spans = [pool.submit(loop, index, given, batch, threads, part, ready) for part in parts]
        began, ended = zip(*(span.result() for span in spans), strict=True)
    return len(index.entries) / (max(ended) - min(began))


def run_job(index: ShardIndex, given: Namespace, workers: int) -> Figures:
    """Run the command and return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        spec = {
            "kind": "invert",
            "input": index.url,
            "output": f"{folder}/latents",
            "sampler": {"steps": given.steps, "guidance_scale": given.guidance},
            "workers": {"count": workers, "batch_size": given.batch},
        }
        Path(folder, "spec.json").write_text(json.dumps(spec))
        began = time.time()
        subprocess.run([sys.executable, *COMMAND, "run", f"{folder}/spec.json"], check=True, capture_output=True)
        ended, store = time.time(), Store(f"{folder}/latents")
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
    """Return the time at which a unit's input was read."""
    return commit.started + commit.seconds.read


def shares(commits: Sequence[Commit], workers: int) -> Figures:
    """Return the shares of the workers' time from the first batch to the last commit. Their sum is 1."""
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


def summary(workers: int, loops: list[float], runs: list[Figures], singles: dict[int, list[float]]) -> dict[str, Any]:
    """Return the medians of the rounds. An efficiency is a run's rate over that of the loop of the same round.

    `singles` are the rates of single processes by batch size.
    """

    def efficiencies(rate: str) -> list[float]:
        return ratios([run[rate] for run in runs], loops)

    row = {
        "workers": workers,
        "loop_images_per_second": median(loops),
        "efficiency": median(efficiencies("images_per_second")),
        "efficiencies": efficiencies("images_per_second"),
        "efficiency_with_start_up": median(efficiencies("images_per_second_with_start_up")),
        "efficiency_of_compute": median(efficiencies("images_per_second_of_compute")),
        **{name: median(run[name] for run in runs) for name in runs[0]},
    }
    if singles:
        best = max(singles, key=lambda batch: median(singles[batch]))
        of_best = ratios([run["images_per_second"] for run in runs], singles[best])
        row["single_images_per_second"] = {str(batch): median(rates) for batch, rates in singles.items()}
        row |= {"best_single_batch": best, "of_best_single": median(of_best), "of_best_singles": of_best}
    return row


@program(
    workers=[1, 2], images=128, batch=16, single_batches=[16, 32, 64], steps=10, guidance=1.0, rounds=2
)  # images per worker, in whole batches
def efficiency(given: Namespace) -> None:
    images, rows = cycle(sample.image for sample in shipped_samples()), []
    with tempfile.TemporaryDirectory() as folder:
        contenders: dict[tuple[int, str], Any] = {}
        for workers in given.workers:
            index = shard(Path(folder, f"{workers}.tar"), "png", list(islice(images, workers * given.images)))
            loops = partial(run_loops, index, given)
            contenders[workers, "loop"] = partial(loops, given.batch, processes=workers, threads=1)
            contenders[workers, "run"] = partial(run_job, index, given, workers)
            for batch in given.single_batches if workers > 1 else ():
                contenders[workers, f"{batch}"] = partial(loops, batch, processes=1, threads=workers)
        found = alternate(given.rounds, contenders)
    for workers in given.workers:
        singles = {int(name): rates for (count, name), rates in found.items() if count == workers and name.isdigit()}
        rows.append(summary(workers, found[workers, "loop"], found[workers, "run"], singles))
    columns: dict[str, Any] = {
        "workers": "workers",
        "loop, images per second": "loop_images_per_second:.2f",
        "run": "images_per_second:.2f",
        "run / loop": lambda row: spread(row["efficiencies"], 3),
        "compute only": "efficiency_of_compute:.3f",
        "with start-up": "efficiency_with_start_up:.3f",
        "s to the first batch": "seconds_to_first_batch:.1f",
        "s after the last commit": "seconds_after_last_commit:.1f",
    }
    show(rows, columns)
    several = [row for row in rows if "of_best_single" in row]
    columns = {f"batch {n}": lambda row, n=n: row["single_images_per_second"][str(n)] for n in given.single_batches}
    columns = {"threads": "workers", **columns, "run / best": lambda row: spread(row["of_best_singles"], 3)}
    show(several, columns, "images per second of one process") if several else None
    shown = {"workers": "workers"} | {name: f"{name}:.2%" for name in SHARES}
    show(rows, shown, "shares of the workers' time from the first batch to the last commit; all but compute is idle")
    save("efficiency", given, rows=rows)


if __name__ == "__main__":
    run(__doc__, efficiency)
