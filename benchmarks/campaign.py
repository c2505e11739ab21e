"""Runs that are killed at random, on three nodes, with stores on a disk and on S3; and what their stores hold then.

`python -m benchmarks.campaign --runs 200`. A run is a job over 20 real pictures on the default model, on a Ray cluster
of three nodes on this machine, of which two have workers. At random moments a worker, a raylet or the driver is killed
(SIGKILL); a driver is started again, sometimes beside one that is alive. In the end each store is held against that of
an undisturbed run, row by row, by the sha256 of all that a row holds. Everything random comes from the run's seed.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from benchmarks.contents import contents
from benchmarks.record import parser, save
from jobs.evaluation.record import table
from jobs.launch import run_spec
from pipeline.inspect.status import status
from pipeline.io.shards import Sample, index_shard, read_samples, write_shard
from pipeline.store.store import Store
from schemas.specs import InvertSpec

DEMO = Path(__file__).parents[1] / "jobs" / "demo" / "shards" / "demo-00000.tar"
PAUSE = 6.0  # seconds between two kills, at most
DRIVERS = 20  # that a run may take before it is given up
TARGETS = {"worker": 5, "driver": 3, "raylet": 2}  # and how often each is chosen

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["jobs.launch"])


class Nodes:
    """A cluster of a head without workers and two nodes with two each."""

    def __init__(self) -> None:
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.address = self._cluster.address
        self._nodes = [self._cluster.add_node(num_cpus=2) for _ in range(2)]

    def kill_raylet(self, which: int) -> bool:
        """Kill the raylet of a node, and with it the node; another takes its place."""
        node = self._nodes.pop(which)
        node.kill_raylet()
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.append(self._cluster.add_node(num_cpus=2))
        return True

    def shutdown(self) -> None:
        self._cluster.shutdown()


def write_shards(folder: Path) -> str:
    """Two shards of 11 and 9 pictures; what names them."""
    index = index_shard(str(DEMO))
    read = read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries[:20])
    samples = [sample for sample in read if isinstance(sample, Sample)]
    for name, part in (("0", samples[:11]), ("1", samples[11:])):
        members = ((sample.key, {sample.extension: sample.image, "txt": sample.caption.encode()}) for sample in part)
        (folder / f"{name}.tar").write_bytes(write_shard(members))
    return str(folder / "{0,1}.tar")


def job(shards: str, output: str) -> InvertSpec:
    """Five units and more, of a second or so."""
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
    """A driver, in a process of its own."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["RAY_ADDRESS"] = address
    raise SystemExit(0 if run_spec(spec).status.complete else 1)


def kill_worker(chance: random.Random) -> bool:
    """Kill one of this cluster's processes that hold a model, or are about to; False where there is none."""
    workers = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "InvertWorker" in (process.cmdline() or [""])[0]:
                workers.append(process)
    if not workers:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        chance.choice(workers).kill()
    return True


def run_killed(spec: InvertSpec, nodes: Nodes, seed: int, log: Path) -> Counter[str]:
    """One run, killed now and then until it is complete; what was killed how often."""
    chance = random.Random(seed)
    did: Counter[str] = Counter()

    def start() -> Any:
        process = FORKS.Process(target=drive, args=(spec, nodes.address, str(log)))
        process.start()
        did["drivers"] += 1
        return process

    drivers = [start()]
    if chance.random() < 0.2:
        drivers.append(start())
        did["overlaps"] += 1
    kills = 1 + int(chance.expovariate(0.7))
    while drivers:
        drivers[0].join(chance.uniform(0, PAUSE) if kills else None)
        if not drivers[0].is_alive():
            ended = drivers.pop(0)
            if ended.exitcode not in (0, -signal.SIGKILL):
                did["drivers that failed"] += 1
                print(f"seed {seed}: a driver ended with {ended.exitcode}:\n{log.read_text()[-3000:]}", flush=True)
            if ended.exitcode != 0 and not drivers:
                if did["drivers"] >= DRIVERS:
                    raise RuntimeError(f"seed {seed}: not complete after {DRIVERS} drivers; see {log}")
                drivers.append(start())
            continue
        target = chance.choices(list(TARGETS), list(TARGETS.values()))[0]
        if target == "worker":
            hit = kill_worker(chance)
        elif target == "raylet":
            hit = nodes.kill_raylet(chance.randrange(2))
        else:
            drivers[0].kill()
            hit = True
        if hit:
            did[target] += 1
            kills -= 1
    return did


@contextlib.contextmanager
def s3() -> Iterator[str]:
    """A bucket of a real S3 server (moto) on loopback, named in the environment; started before any other process."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, code: object = "-", size: object = "-") -> None:
            pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()
        endpoint = f"http://{host}:{port}"
        os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}
        os.environ |= {"AWS_ACCESS_KEY_ID": "campaign", "AWS_SECRET_ACCESS_KEY": "campaign"}
        application = DomainDispatcherApplication(create_backend_app)
        server = make_server(host, port, application, threaded=True, request_handler=Quiet, fd=listening.fileno())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="campaign")
        yield "s3://campaign"
        server.shutdown()


def campaign(folder: Path, bucket: str, seeds: Sequence[int]) -> dict[str, Any]:
    """A run of each seed, those of odd ones with their store on S3; all figures."""
    shards = write_shards(folder)
    nodes = Nodes()
    total: Counter[str] = Counter()
    wrong: list[int] = []
    began = time.monotonic()
    try:
        undisturbed = job(shards, str(folder / "undisturbed"))
        first = FORKS.Process(target=drive, args=(undisturbed, nodes.address, str(folder / "undisturbed.log")))
        first.start()
        first.join()
        expected = contents(Store(undisturbed.output))
        assert expected.total() == status(Store(undisturbed.output)).planned
        for number, run in enumerate(seeds, 1):
            spec = job(shards, f"{bucket}/{run}" if run % 2 else str(folder / str(run)))
            did = run_killed(spec, nodes, run, folder / f"{run}.log")
            store = Store(spec.output)
            found = contents(store)
            store.sweep()
            named = {file.path for commit in store.commits() for file in commit.files}
            did["rows lost"] = len(expected.keys() - found.keys())
            did["rows doubled"] = found.total() - len(found)
            did["rows that differ"] = len(found.keys() - expected.keys())
            did["files left over"] = len(set(store.names("parts")) ^ named)
            did["attempts"] = status(store).attempts
            total += did
            bad = found != expected or did["files left over"] > 0
            wrong += [run] if bad else []
            told = ", ".join(f"{name} {value}" for name, value in did.items() if value)
            print(f"{number}/{len(seeds)} seed {run} {'WRONG' if bad else 'ok'}: {told}", flush=True)
    finally:
        nodes.shutdown()
    return {
        "runs": len(seeds),
        "seeds": [seeds[0], seeds[-1]],
        "seconds": round(time.monotonic() - began),
        "rows_a_run": expected.total(),
        "wrong_seeds": wrong,
        "rows_lost": total["rows lost"],
        "rows_doubled": total["rows doubled"],
        "rows_differing": total["rows that differ"],
        "files_left_over": total["files left over"],
        "killed": {name: total[name] for name in TARGETS},
        "drivers": total["drivers"],
        "drivers_that_failed": total["drivers that failed"],
        "overlapping_drivers": total["overlaps"],
        "attempts": total["attempts"],
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--runs", type=int, default=200, help="how many")
    arguments.add_argument("--seed", type=int, default=1, help="of the first; each further one has the next")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder, s3() as bucket:
        figures = campaign(Path(folder), bucket, range(given.seed, given.seed + given.runs))
    print(table(["", ""], [(name.replace("_", " "), value) for name, value in figures.items()]))
    print(save("campaign", given, **figures))
    raise SystemExit(1 if figures["wrong_seeds"] else 0)


if __name__ == "__main__":
    main()
