"""Resident memory of the driver and of each worker over a long run."""

import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import psutil

from benchmarks import plots
from benchmarks.harness import EDICT, RESULTS, program, save, shipped_samples, show
from pipeline.inspect.status import status
from pipeline.io.shard_writer import write_shard
from pipeline.store.store import Store

SHARD = 1000  # samples per shard
INTERVAL = 2.0  # seconds between two readings
WARM_UP = 0.2  # share of the samples

Reading = tuple[float, int, int]
"""The seconds since the start, the samples that are done, and the resident bytes."""


def write_shards(folder: Path, count: int) -> str:
    """Write the shipped samples repeatedly, under new keys, as `count` samples. Return the pattern of the shards."""
    samples = shipped_samples()
    for shard in range(count // SHARD):
        numbers = range(shard * SHARD, (shard + 1) * SHARD)
        chosen = [(f"{number:06d}", samples[number % len(samples)]) for number in numbers]
        members = ((key, {one.extension: one.image, "txt": one.caption.encode()}) for key, one in chosen)
        (folder / f"{shard:03d}.tar").write_bytes(write_shard(members))
    return str(folder / f"{{000..{count // SHARD - 1:03d}}}.tar")


def watch(driver: subprocess.Popen[bytes], store: Path) -> dict[str, list[Reading]]:
    """Read the memory of the driver and its workers, by name and process, until the driver has ended."""
    readings, began = defaultdict[str, list[Reading]](list), time.monotonic()
    unit_size: int | None = None
    while True:
        with suppress(subprocess.TimeoutExpired):
            driver.wait(INTERVAL)
            return readings
        commits = list((store / "commits").glob("*.json"))
        if unit_size is None and commits:
            unit_size = json.loads(commits[0].read_text())["input"]
        done, process = len(commits) * (unit_size or 0), psutil.Process(driver.pid)
        for name, one in [("driver", process), *((f"worker {c.pid}", c) for c in process.children(recursive=True))]:
            with suppress(psutil.NoSuchProcess):
                if name == "driver" or "InvertWorker" in (one.cmdline() or [""])[0]:
                    readings[name].append((time.monotonic() - began, done, one.memory_info().rss))


def figures(readings: list[Reading]) -> dict[str, Any]:
    """Return MiB after warm-up, at the end and at most, and the least-squares slope per 1,000 samples."""
    done = np.array([reading[1] for reading in readings])
    resident = np.array([reading[2] for reading in readings]) / 2**20
    warm = done >= WARM_UP * done.max()
    slope = np.polyfit(done[warm] / 1000, resident[warm], 1)[0]
    return {
        "after_warm_up_mib": round(float(resident[warm][0])),
        "end_mib": round(float(resident[-1])),
        "peak_mib": round(float(resident.max())),
        "mib_per_1000_samples": round(float(slope), 3),
    }


@program(samples=20_000, workers=2)
def memory(given: Namespace) -> None:
    """Measure the memory of a run over 20,000 samples (whole thousands): the shipped images, repeated.

    Each sample takes one step, because memory does not depend on the steps. The first fifth of the run is warm-up.
    """
    with tempfile.TemporaryDirectory() as folder:
        spec = {
            "kind": "invert",
            "input": write_shards(Path(folder), given.samples),
            "output": f"{folder}/latents",
            "sampler": {"steps": 1, "guidance_scale": 1.0},
            "workers": {"count": given.workers, "batch_size": 16},
        }
        Path(folder, "spec.json").write_text(json.dumps(spec))
        began = time.monotonic()
        command = subprocess.Popen([sys.executable, *EDICT, "run", f"{folder}/spec.json"])
        readings = watch(command, Path(folder, "latents"))
        seconds = time.monotonic() - began
        found = status(Store(f"{folder}/latents"))
    assert found.complete
    assert found.ok == given.samples
    processes = {name: figures(readings[name]) for name in readings}
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for name, points in readings.items():
        axes.plot([reading[1] for reading in points], [reading[2] / 2**20 for reading in points], label=name)
    axes.set(xlabel="samples done", ylabel="resident memory, MiB", ylim=(0, None), title=f"{given.samples:,} samples")
    axes.legend()
    plots.save(figure, RESULTS / "memory", dpi=110)
    columns = {"MiB after warm-up": "after_warm_up_mib", "at the end": "end_mib", "peak": "peak_mib"}
    rows = [{"process": name, **values} for name, values in processes.items()]
    show(rows, {"": "process", **columns, "MiB per 1,000 samples": "mib_per_1000_samples"})
    save("memory", given, seconds=round(seconds), processes=processes)
