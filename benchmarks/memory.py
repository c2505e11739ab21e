"""Memory over a long run: the resident set of the driver and of each worker while 20,000 small samples are inverted.

`python -m benchmarks.memory`. The samples are the shipped pictures, again and again under other keys, in shards of
1,000; one step each, since memory does not depend on steps. How flat: the least-squares slope after warm-up, which is
the first fifth of the run.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import psutil

from benchmarks.record import RESULTS, save
from jobs.evaluation.record import table
from pipeline.inspect.status import status
from pipeline.io.shards import Sample, index_shard, read_samples
from pipeline.store.store import Store

DEMO = Path(__file__).parents[1] / "jobs" / "demo" / "shards" / "demo-00000.tar"
A_SHARD = 1000
EVERY = 2.0  # seconds between two looks
WARM = 0.2  # of the samples

Look = tuple[float, int, int]  # seconds, samples done, bytes resident


def write_shards(folder: Path, count: int) -> str:
    """So many samples; what names their shards."""
    index = index_shard(str(DEMO))
    read = read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries)
    samples = [sample for sample in read if isinstance(sample, Sample)]
    for shard in range(count // A_SHARD):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as tar:
            for number in range(shard * A_SHARD, (shard + 1) * A_SHARD):
                sample = samples[number % len(samples)]
                for extension, data in ((sample.extension, sample.image), ("txt", sample.caption.encode())):
                    info = tarfile.TarInfo(f"{number:06d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return str(folder / f"{{000..{count // A_SHARD - 1:03d}}}.tar")


def watch(driver: subprocess.Popen[bytes], store: Path) -> dict[str, list[Look]]:
    """Look at the driver and its workers, by name and process, until the driver has ended."""
    looks = defaultdict[str, list[Look]](list)
    began = time.monotonic()
    a_unit: int | None = None
    while True:
        try:
            driver.wait(EVERY)
        except subprocess.TimeoutExpired:
            pass
        else:
            return looks
        commits = list((store / "commits").glob("*.json"))
        if a_unit is None and commits:
            a_unit = json.loads(commits[0].read_text())["input"]
        done = len(commits) * (a_unit or 0)
        process = psutil.Process(driver.pid)
        for name, one in [("driver", process), *((f"worker {c.pid}", c) for c in process.children(recursive=True))]:
            try:
                if name == "driver" or "InvertWorker" in (one.cmdline() or [""])[0]:
                    looks[name].append((time.monotonic() - began, done, one.memory_info().rss))
            except psutil.NoSuchProcess:
                continue


def figures(looks: list[Look]) -> dict[str, Any]:
    """MiB at the end of warm-up and at the end, and MiB a thousand samples between, by least squares."""
    done, resident = np.array([look[1] for look in looks]), np.array([look[2] for look in looks]) / 2**20
    warm = done >= WARM * done.max()
    slope = np.polyfit(done[warm] / 1000, resident[warm], 1)[0]
    return {
        "after_warm_up_mib": round(float(resident[warm][0])),
        "end_mib": round(float(resident[-1])),
        "peak_mib": round(float(resident.max())),
        "mib_per_1000_samples": round(float(slope), 3),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    arguments.add_argument("--samples", type=int, default=20_000, help="whole thousands")
    arguments.add_argument("--workers", type=int, default=2)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spec = {
            "kind": "invert",
            "input": write_shards(Path(folder), given.samples),
            "output": f"{folder}/latents",
            "sampler": {"steps": 1, "guidance_scale": 1.0},
            "workers": {"count": given.workers, "batch_size": 16},
        }
        Path(folder, "spec.json").write_text(json.dumps(spec))
        command = [sys.executable, "-c", "from jobs.cli import app; app()", "run", f"{folder}/spec.json"]
        began = time.monotonic()
        looks = watch(subprocess.Popen(command), Path(folder, "latents"))
        seconds = time.monotonic() - began
        found = status(Store(f"{folder}/latents"))
    assert found.complete
    assert found.ok == given.samples
    processes = {name: figures(looks[name]) for name in looks}
    figure, axes = plt.subplots(figsize=(8, 4))
    for name in looks:
        axes.plot([look[1] for look in looks[name]], [look[2] / 2**20 for look in looks[name]], label=name)
    axes.set(xlabel="samples done", ylabel="resident set, MiB", ylim=(0, None), title=f"{given.samples:,} samples")
    axes.legend()
    figure.savefig(RESULTS / "memory.png", dpi=110, bbox_inches="tight")
    head = ["", "MiB after warm-up", "at the end", "peak", "MiB per 1,000 samples"]
    print(table(head, [(name, *values.values()) for name, values in processes.items()]))
    print(save("memory", given, seconds=round(seconds), processes=processes))


if __name__ == "__main__":
    main()
