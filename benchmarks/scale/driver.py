"""CPU time of the driver to schedule jobs for 1,000 workers."""

import asyncio
import json
import logging
import resource
import tempfile
import time
from argparse import Namespace
from functools import cached_property
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import ray

from benchmarks.harness import program, save, show
from benchmarks.scale.store import BATCH, BYTES, SHARD, UNIT, new_commit
from pipeline import run
from pipeline.execute import pool
from pipeline.messages import ExcludedSamples, Machine, UnitResult
from pipeline.plan import opened_job
from pipeline.plan.units import cut
from pipeline.store.plan import Unit
from pipeline.workers.heartbeat import WORK, Report
from schemas.specs import InvertSpec

SLEEP = 1.0  # seconds that a unit takes on a coroutine


class IdleWorker:
    """A worker whose units take no time."""

    def __init__(self, task: None) -> None:
        pass

    def process(self, unit: Unit, number: int, next_unit: Unit | None, excluded: ExcludedSamples) -> UnitResult:
        return UnitResult(unit.count, 0, 0, 0.0)


class CoroutineWorkers:
    """An actor that stands for many workers: each of its concurrent calls is a worker."""

    async def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    async def load(self) -> None:
        pass

    async def call(
        self, method: str, unit: Unit, number: int, next_unit: Unit | None, excluded: ExcludedSamples
    ) -> UnitResult:
        await asyncio.sleep(SLEEP)
        return UnitResult(unit.count, 0, 0, SLEEP)

    async def heartbeat(self) -> Report:
        return Report(0, WORK, 1.0)


class SimulatedRay:
    """The functions of Ray that a run calls, with workers that commit each unit to `store` at once.

    `began` and `ended` are the CPU seconds of this process at the start of the first worker and at the end of the last
    unit. `working` are the CPU seconds of the workers.
    """

    def __init__(self, store: Path) -> None:
        self.began = self.ended = self.working = 0.0
        self._store, self._commits = store, store / "commits"
        self._commits.mkdir()
        self._refs, self._results = count(), dict[int, Any]()
        methods = {"node": "a node", "load": None, "heartbeat": Report(0, WORK, 1.0)}
        self._actor = SimpleNamespace(
            call=SimpleNamespace(remote=self._call),
            **{name: SimpleNamespace(remote=lambda value=value: self._put(value)) for name, value in methods.items()},
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
    def _commit(self) -> str:
        """The commit of unit 12345678 of SOURCE by this job, without a part."""
        job = json.loads((self._store / "job.json").read_text())["id"]
        made = new_commit(Unit("12345678", "SOURCE", 0, 0, UNIT, 1, None))
        return made.model_copy(update={"job": job, "files": ()}).model_dump_json()

    def _call(self, method: str, unit: Unit, number: int, next_unit: Unit | None, excluded: ExcludedSamples) -> int:
        began = time.thread_time()
        text = self._commit.replace("12345678", unit.unit).replace("SOURCE", unit.source)
        (self._commits / f"{unit.unit}.json").write_text(text)
        self.working += time.thread_time() - began
        return self._put(UnitResult(unit.count, 0, 0, 0.0))

    def _put(self, result: object) -> int:
        ref = next(self._refs)
        self._results[ref] = result
        return ref


def new_units(number: int) -> list[Unit]:
    """Return `number` units over as many shards as they need."""
    sources = []
    for ordinal, first in enumerate(range(0, number, SHARD)):
        samples = min(SHARD, number - first) * UNIT
        sources.append((f"s3://photos/train/{ordinal:05d}.tar", samples, samples * BYTES, f"{ordinal:032x}"))
    units = cut(sources, BATCH, workers=1)
    assert len(units) == number
    return units


def run_simulated(number: int, workers: int, parent: Path) -> dict[str, Any]:
    """Run a job of `number` units. Return the driver's CPU seconds by what it does, and microseconds per unit."""
    units = new_units(number)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        fields = {"input": "s3://photos/train.tar", "output": folder, "workers": {"count": workers}}
        spec, backend = InvertSpec.model_validate({"kind": "invert", **fields}), SimulatedRay(Path(folder))
        began = time.process_time()
        with (
            patch.object(opened_job, "plan_shards", lambda *_: units),
            patch.object(pool, "ray", backend),
            patch.multiple(ray, is_initialized=backend.is_initialized, cluster_resources=backend.cluster_resources),
        ):
            result = run.run_invert(spec)
        ended = time.process_time()
    assert result.status.complete
    assert result.status.committed == number
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


def run_on_ray(name: str, worker: type, number: int, workers: int, backend: Any = ray) -> dict[str, Any]:
    """Return the driver's CPU microseconds per unit, and units per second, from the end of the first unit on."""
    with patch.object(pool, "ray", backend):
        outcomes = pool.Pool(new_units(number), worker, None, count=workers, machine=Machine("cpu", 1, 0.0)).outcomes()
        ends = [(time.perf_counter(), time.process_time()) for outcome in outcomes if outcome is not None]
    assert len(ends) == number
    seconds, busy = (last - first for first, last in zip(ends[0], ends[-1], strict=True))
    figures = {"microseconds_a_unit": busy / (number - 1) * 1e6, "units_per_second": (number - 1) / seconds}
    return {"pool": name, "workers": workers, "units": number, **figures}


def one_actor(workers: int) -> SimpleNamespace:
    """Return Ray, except that every actor that it starts is the same CoroutineWorkers."""
    actor = ray.remote(CoroutineWorkers).options(max_concurrency=2 * workers).remote()
    started = SimpleNamespace(remote=lambda task: actor)
    return SimpleNamespace(
        remote=lambda **options: lambda worker: started,
        wait=ray.wait,
        get=ray.get,
        nodes=ray.nodes,
        kill=lambda actor: None,
    )


@program(units=[10, 1_000, 10_000, 100_000, 1_000_000], workers=1_000, actors=2, folder=Path(tempfile.gettempdir()))
def driver(given: Namespace) -> None:
    """Measure the CPU time of the driver's process, with all its threads, for jobs whose units take no time.

    Waiting for a disk is not included. A simulated job is a whole `pipeline.run.run_invert`: plan, queue, attempts, run
    log, checkpoints, progress, status and report. It reads no shard, and a simulation replaces Ray. On Ray, only the
    pool runs, over real actors, and over 1,000 workers that are coroutines of one actor and take a second per unit.
    """
    ray.init(address="local", num_cpus=given.actors + 1, include_dashboard=False, logging_level=logging.ERROR)
    on_ray = [
        run_on_ray("actors", IdleWorker, 2_000, given.actors),
        run_on_ray("coroutines", CoroutineWorkers, 5 * given.workers, given.workers, one_actor(given.workers)),
    ]
    ray.shutdown()
    run_simulated(given.units[0], given.workers, given.folder)  # The first job sets things up.
    rows = [run_simulated(number, given.workers, given.folder) for number in given.units]
    columns = {
        "units": "units:,",
        "plan, s": "plan_seconds:.2f",
        "scheduling, s": "scheduling_seconds:.2f",
        "ledger, status, report, s": "finish_seconds:.2f",
        "scheduling, µs per unit": "scheduling_microseconds_a_unit:.0f",
        "all, µs per unit": "microseconds_a_unit:.0f",
        "units per second": "units_per_second:,.0f",
        "peak memory, MiB": "peak_memory_mib",
    }
    show(rows, columns)
    columns = {"Ray": "pool", "workers": "workers", "units": "units", "µs of CPU per unit": "microseconds_a_unit:.0f"}
    show(on_ray, columns | {"units per second, by the clock": "units_per_second:.0f"})
    save("driver", given, simulated=rows, ray=on_ray)
