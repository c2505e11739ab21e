"""Kill workers, nodes and drivers at random, and compare the stores with that of an undisturbed run.

`python -m tests.campaigns.kills --runs 200`. A run is a job over 20 images with the shipped model, on a Ray cluster of
three nodes on this machine. Two of the nodes have workers. Every second store is on S3. At random moments a worker, a
raylet or the driver is killed (SIGKILL). A new driver is started after that, and in some runs there are two drivers at
once. At the end each store is compared row by row, by the sha256 of all the data of a row. The seed of a run decides
everything random, except timing.
"""

import multiprocessing
import os
import random
import signal
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import psutil
from ray.cluster_utils import Cluster

from benchmarks.dataplane.writing import s3_server
from benchmarks.harness import program, run, save, shipped_samples, show
from jobs.launch import run_spec
from pipeline.inspect.status import status
from pipeline.io.shard_writer import write_shard
from pipeline.store.store import Store
from schemas.specs import InvertSpec
from tests.campaigns import RESULTS
from tests.contents import contents, faults

PAUSE = 6.0  # the most seconds between two kills
DRIVERS = 20  # the most drivers of a run
WEIGHTS = {"worker": 5, "driver": 3, "raylet": 2}  # of the choice of what is killed

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["jobs.launch"])


class Nodes:
    """A Ray cluster: a head without workers, and two nodes for two workers each."""

    def __init__(self) -> None:
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.address = self._cluster.address
        self._nodes = [self._cluster.add_node(num_cpus=2) for _ in range(2)]

    def kill_raylet(self, which: int) -> None:
        """Kill the raylet of a node, which ends the node, and add another node."""
        node = self._nodes.pop(which)
        node.kill_raylet()
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.append(self._cluster.add_node(num_cpus=2))

    def shutdown(self) -> None:
        self._cluster.shutdown()


def write_shards(folder: Path) -> str:
    """Write two shards of 11 and 9 images. Return their pattern."""
    samples = shipped_samples()[:20]
    for name, part in (("0", samples[:11]), ("1", samples[11:])):
        members = ((sample.key, {sample.extension: sample.image, "txt": sample.caption.encode()}) for sample in part)
        (folder / f"{name}.tar").write_bytes(write_shard(members))
    return str(folder / "{0,1}.tar")


def job(shards: str, output: str) -> InvertSpec:
    """Return a job of six units, which take about a second each."""
    return InvertSpec.model_validate(
        {
            "kind": "invert",
            "input": shards,
            "output": output,
            "sampler": {"steps": 12, "guidance_scale": 1.0},
            "workers": {"count": 2, "batch_size": 2},
        }
    )


def drive(spec: InvertSpec, address: str, log: str) -> None:
    """Run a job in this process, with the output in a log."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["RAY_ADDRESS"] = address
    raise SystemExit(0 if run_spec(spec).status.complete else 1)


def kill_worker(chance: random.Random) -> bool:
    """Kill a worker of this cluster. Return whether there was one."""
    workers = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "InvertWorker" in (process.cmdline() or [""])[0]:
                workers.append(process)
    if workers:
        with suppress(psutil.NoSuchProcess):
            chance.choice(workers).kill()
    return bool(workers)


def run_killed(spec: InvertSpec, nodes: Nodes, seed: int, log: Path) -> Counter[str]:
    """Run a job with random kills until it is complete. Return counts of what was started and killed.

    Raises:
        RuntimeError: The job is not complete after DRIVERS drivers.
    """
    chance, counts = random.Random(seed), Counter[str]()

    def start() -> Any:
        process = FORKS.Process(target=drive, args=(spec, nodes.address, str(log)))
        process.start()
        counts["drivers"] += 1
        return process

    drivers = [start()]
    if chance.random() < 0.2:
        drivers.append(start())
        counts["overlapping_drivers"] += 1
    kills = 1 + int(chance.expovariate(0.7))
    while drivers:
        drivers[0].join(chance.uniform(0, PAUSE) if kills else None)
        if not drivers[0].is_alive():
            ended = drivers.pop(0)
            if ended.exitcode not in (0, -signal.SIGKILL):
                counts["drivers_that_failed"] += 1
                print(f"seed {seed}: a driver ended with {ended.exitcode}:\n{log.read_text()[-3000:]}", flush=True)
            if ended.exitcode != 0 and not drivers:
                if counts["drivers"] >= DRIVERS:
                    raise RuntimeError(f"seed {seed}: not complete after {DRIVERS} drivers; see {log}")
                drivers.append(start())
            continue
        target = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if target == "worker":
            if not kill_worker(chance):
                continue
        elif target == "raylet":
            nodes.kill_raylet(chance.randrange(2))
        else:
            drivers[0].kill()
        counts[target] += 1
        kills -= 1
    return counts


def campaign(folder: Path, bucket: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Run once per seed, with the store on S3 if the seed is odd. Return all counts."""
    shards, nodes, total, wrong = write_shards(folder), Nodes(), Counter[str](), list[int]()
    began = time.monotonic()
    try:
        undisturbed = job(shards, str(folder / "undisturbed"))
        first = FORKS.Process(target=drive, args=(undisturbed, nodes.address, str(folder / "undisturbed.log")))
        first.start()
        first.join()
        expected = contents(Store(undisturbed.output))
        assert expected.total() == status(Store(undisturbed.output)).planned
        for seed in seeds:
            spec = job(shards, f"{bucket}/{seed}" if seed % 2 else str(folder / str(seed)))
            counts = run_killed(spec, nodes, seed, folder / f"{seed}.log")
            store = Store(spec.output)
            store.remove_orphan_files()
            found = faults(store, expected)
            wrong += [seed] if found.total() else []
            counts |= found | Counter(attempts=status(store).attempts)
            total += counts
            print(f"seed {seed} {'WRONG' if found.total() else 'ok'}: {dict(+counts)}", flush=True)
    finally:
        nodes.shutdown()
    return {
        "runs": len(seeds),
        "seeds": [seeds[0], seeds[-1]],
        "seconds": round(time.monotonic() - began),
        "rows_a_run": expected.total(),
        "wrong_seeds": wrong,
        **{name: total[name] for name in ("rows_lost", "rows_doubled", "rows_differing", "files_left_over")},
        "killed": {name: total[name] for name in WEIGHTS},
        **{name: total[name] for name in ("drivers", "drivers_that_failed", "overlapping_drivers", "attempts")},
    }


@program(runs=200, seed=1)
def kills(given: Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder, s3_server():
        boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket="kills-0")
        figures = campaign(Path(folder), "s3://kills-0", range(given.seed, given.seed + given.runs))
    show([{"": name.replace("_", " "), "count": value} for name, value in figures.items()], {"": "", "count": "count"})
    save(RESULTS / "kills", given, **figures)
    raise SystemExit(1 if figures["wrong_seeds"] else 0)


if __name__ == "__main__":
    run(__doc__, kills)
