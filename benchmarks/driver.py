"""What scheduling costs the driver: jobs of ten to a million units for 1,000 workers, whose work is nothing.

`python -m benchmarks.driver`. In CPU seconds of the driver's process, all of its threads together, so that they are
what one core would take; waiting for a disk is not in it.

- simulated: a whole `pipeline.run.run_invert` (plan, queue, attempts, journal, ledger, progress, status, report) but
  for two things: no shard is read, and Ray is a stand-in whose workers leave a commit at once. What they spend on that
  is not counted
- Ray: the pool alone, over real actors, and over 1,000 workers that are coroutines of one real actor and take a second
  for a unit: Ray's own calls, with as many of them under way
"""

import argparse
import asyncio
import json
import logging
import resource
import tempfile
import time
from functools import cached_property
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import ray

from benchmarks import scale
from benchmarks.record import numbers, save
from jobs.evaluation.record import table
from pipeline import run
from pipeline.execute import cluster, pool
from pipeline.messages import ExcludedSamples, Machine, UnitResult
from pipeline.plan.units import cut
from pipeline.store.plan import Unit
from pipeline.workers.heartbeat import WORK, Report
from schemas.specs import InvertSpec

A_UNIT = 1.0  # seconds, of a coroutine


class Idle:
    """A worker whose units are nothing."""

    def __init__(self, task: None) -> None:
        pass

    def process(self, unit: Unit, number: int, ahead: Unit | None, excluded: ExcludedSamples) -> UnitResult:
        return UnitResult(unit.count, 0, 0, 0.0)


class Crowd:
    """As many workers as it has calls under way."""

    async def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    async def load(self) -> None:
        pass

    async def call(
        self, method: str, unit: Unit, number: int, ahead: Unit | None, excluded: ExcludedSamples
    ) -> UnitResult:
        await asyncio.sleep(A_UNIT)
        return UnitResult(unit.count, 0, 0, A_UNIT)

    async def heartbeat(self) -> Report:
        return Report(0, WORK, 1.0)


class Simulated:
    """What a run asks of Ray, with workers that are done at once, first come first served, and commit to `store`.

    `began` and `ended` are this process's CPU seconds at the first worker's start and at the last unit's end,
    `working` those that the workers took.
    """

    def __init__(self, store: Path) -> None:
        self.began = self.ended = self.working = 0.0
        self._store, self._commits = store, store / "commits"
        self._commits.mkdir()
        self._refs, self._results = count(), dict[int, Any]()
        self._actor = SimpleNamespace(
            node=SimpleNamespace(remote=lambda: self._put("a node")),
            load=SimpleNamespace(remote=lambda: self._put(None)),
            call=SimpleNamespace(remote=self._call),
            heartbeat=SimpleNamespace(remote=lambda: self._put(Report(0, WORK, 1.0))),
        )

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float("inf")}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": "a node", "Alive": True}]

    def remote(self, **options: Any) -> Any:
        return lambda worker: SimpleNamespace(remote=self._start)

    def wait(self, refs: list[int], *, num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        return refs[:num_returns], []

    def get(self, ref: int) -> Any:
        self.ended = time.process_time()
        return self._results.pop(ref)

    def kill(self, actor: object) -> None:
        pass

    def _start(self, packed: object) -> SimpleNamespace:
        self.began = self.began or time.process_time()
        return self._actor

    @cached_property
    def _text(self) -> str:
        """The commit of unit 12345678 of SOURCE, by this store's job."""
        job = json.loads((self._store / "job.json").read_text())["id"]
        made = scale.commit(Unit("12345678", "SOURCE", 0, 0, scale.UNIT, 1, None))
        return made.model_copy(update={"job": job, "files": ()}).model_dump_json()  # no worker writes a part

    def _call(self, method: str, unit: Unit, number: int, ahead: Unit | None, excluded: ExcludedSamples) -> int:
        began = time.thread_time()
        text = self._text.replace("12345678", unit.unit).replace("SOURCE", unit.source)
        (self._commits / f"{unit.unit}.json").write_text(text)
        self.working += time.thread_time() - began
        return self._put(UnitResult(unit.count, 0, 0, 0.0))

    def _put(self, result: object) -> int:
        ref = next(self._refs)
        self._results[ref] = result
        return ref


def units(number: int) -> list[Unit]:
    """So many units over as many shards as that takes."""
    sources = []
    for ordinal, first in enumerate(range(0, number, scale.A_SHARD)):
        samples = min(scale.A_SHARD, number - first) * scale.UNIT
        sources.append((f"s3://photos/train/{ordinal:05d}.tar", samples, samples * scale.BYTES, f"{ordinal:032x}"))
    return cut(sources, scale.BATCH, workers=1)


def simulated(number: int, workers: int, folder: Path) -> dict[str, Any]:
    """The driver's CPU seconds for a job of so many units, by what it does, and microseconds a unit."""
    work = units(number)
    assert len(work) == number
    spec = InvertSpec.model_validate(
        {"kind": "invert", "input": "s3://photos/train.tar", "output": str(folder), "workers": {"count": workers}}
    )
    backend = Simulated(folder)
    began = time.process_time()
    with (
        patch.object(run, "plan_shards", lambda *of: work),
        patch.object(pool, "ray", backend),
        patch.object(cluster, "ray", backend),
    ):
        ran = run.run_invert(spec)
    ended = time.process_time()
    assert ran.status.complete
    assert ran.status.committed == number
    scheduling = backend.ended - backend.began - backend.working
    seconds = ended - began - backend.working
    return {
        "units": number,
        "plan_seconds": backend.began - began,
        "scheduling_seconds": scheduling,
        "finish_seconds": ended - backend.ended,
        "scheduling_microseconds_a_unit": scheduling / number * 1e6,
        "microseconds_a_unit": seconds / number * 1e6,
        "scheduled_units_per_second": number / scheduling,
        "units_per_second": number / seconds,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def on_ray(name: str, worker: type, number: int, workers: int, backend: Any = ray) -> dict[str, Any]:
    """The driver's CPU microseconds a unit and units a second by the clock, from the first unit's end on."""
    with patch.object(pool, "ray", backend):
        outcomes = pool.Pool(units(number), worker, None, count=workers, machine=Machine("cpu", 1, 0.0)).outcomes()
        ends = [(time.perf_counter(), time.process_time()) for outcome in outcomes if outcome is not None]
    assert len(ends) == number
    seconds, busy = (last - first for first, last in zip(ends[0], ends[-1], strict=True))
    return {
        "pool": name,
        "workers": workers,
        "units": number,
        "microseconds_a_unit": busy / (number - 1) * 1e6,
        "units_per_second": (number - 1) / seconds,
    }


def crowd(workers: int) -> SimpleNamespace:
    """Ray, but that every actor it starts is the same one, of a class Crowd."""
    actor = ray.remote(Crowd).options(max_concurrency=2 * workers).remote()
    one = SimpleNamespace(remote=lambda task: actor)
    return SimpleNamespace(
        remote=lambda **options: lambda worker: one,
        wait=ray.wait,
        get=ray.get,
        nodes=ray.nodes,
        kill=lambda actor: None,
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    arguments.add_argument("--units", type=numbers, default=[10, 1_000, 10_000, 100_000, 1_000_000])
    arguments.add_argument("--workers", type=int, default=1_000, help="simulated ones")
    arguments.add_argument("--actors", type=int, default=2, help="real ones")
    arguments.add_argument("--folder", type=Path, default=None, help="where stores are made; they are removed again")
    given = arguments.parse_args()

    ray.init(address="local", num_cpus=given.actors + 1, include_dashboard=False, logging_level=logging.ERROR)
    real = [
        on_ray("actors", Idle, 2_000, given.actors),
        on_ray("coroutines", Crowd, 5 * given.workers, given.workers, crowd(given.workers)),
    ]
    ray.shutdown()

    rows = []
    for number in (given.units[0], *given.units):  # the first is done twice: what is set up once is not counted
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            rows.append(simulated(number, given.workers, Path(folder)))
            print(json.dumps(rows[-1]), flush=True)
    rows = rows[1:]
    head = ("units", "plan, s", "scheduling, s", "ledger, status, report, s", "scheduling, µs a unit", "all, µs a unit")
    seconds = ("plan_seconds", "scheduling_seconds", "finish_seconds")
    each = ("scheduling_microseconds_a_unit", "microseconds_a_unit")
    print(
        table(
            (*head, "units/s", "peak memory, MiB"),
            [
                [
                    f"{row['units']:,}",
                    *(f"{row[name]:.2f}" for name in seconds),
                    *(f"{row[name]:.0f}" for name in each),
                    f"{row['units_per_second']:,.0f}",
                    row["peak_memory_mib"],
                ]
                for row in rows
            ],
        )
    )
    print(
        table(
            ("Ray", "workers", "units", "driver's CPU, µs a unit", "units/s by the clock"),
            [
                [
                    row["pool"],
                    row["workers"],
                    row["units"],
                    f"{row['microseconds_a_unit']:.0f}",
                    f"{row['units_per_second']:.0f}",
                ]
                for row in real
            ],
        )
    )
    print(f"\nwritten to {save('driver', given, simulated=rows, ray=real)}")


if __name__ == "__main__":
    main()
