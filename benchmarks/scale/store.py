"""Seconds, bytes on disk and memory to plan, resume and show the status of a job of a million units."""

import json
import resource
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.harness import program, save, show
from pipeline.inspect.status import status
from pipeline.io.shard_index import Entry, ShardIndex
from pipeline.plan.units import cut
from pipeline.store.checkpoint import CheckpointWriter
from pipeline.store.plan import Unit, read_units, write_entries, write_units
from pipeline.store.store import Store
from schemas.commit import Commit, File, Seconds
from schemas.rejects import Reject

Result = TypeVar("Result")

BATCH, UNIT, SHARD = 16, 64, 160  # samples per batch, samples per unit, units per shard
BYTES = 12_000  # per sample in a shard


def new_index(ordinal: int) -> ShardIndex:
    entries = tuple(Entry(i, f"{ordinal:05d}{i:05d}", i * BYTES, (i + 1) * BYTES, None) for i in range(UNIT * SHARD))
    return ShardIndex(f"s3://photos/train/{ordinal:05d}.tar", len(entries) * BYTES, f"{ordinal:032x}", entries)


def new_commit(unit: Unit) -> Commit:
    """Return a commit as a worker writes it. Every tenth has a reject."""
    attempt, number = f"{unit.unit}-1-0123abcd", int(unit.unit)
    message = "image file is truncated (17 bytes not processed)"
    rejects = (Reject(unit.source, unit.first, "000000", "decode", "Unreadable", message),) if number % 10 == 0 else ()
    return Commit(
        unit=unit.unit,
        attempt=attempt,
        source=unit.source,
        input=unit.count,
        ok=unit.count - len(rejects),
        rejected=len(rejects),
        filtered=0,
        files=(File(path=f"parts/{attempt}.parquet", sha256=f"{number:064x}", bytes=500_000, rows=unit.count),),
        rejects=rejects,
        seconds=Seconds(read=1.25, compute=20.5, write=0.75),
        started=1_700_000_000.0 + number // 8 * 22.5,
        finished=1_700_000_000.0 + number // 8 * 22.5 + 22.5,
        worker={"host": f"node-{number % 8}", "pid": "4711", "device": "cuda", "processor": "NVIDIA H200"},
        versions={"edict-pipeline": "0.1.0", "torch": "2.13.0", "diffusers": "0.39.0", "transformers": "5.23.0"},
    )


def files_of(folder: Path) -> dict[str, int]:
    """Count the files in a folder, and their bytes."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return {"files": len(sizes), "bytes": sum(sizes)}


def commit_all(store: Store, units: list[Unit]) -> None:
    """Commit units. Their parts are sparse files, which have a size and take no space."""

    def commit(unit: Unit) -> None:
        made = new_commit(unit)
        for file in made.files:
            with Path(store.location, file.path).open("wb") as part:
                part.truncate(file.bytes)
        store.commit(made)

    Path(store.location, "parts").mkdir(exist_ok=True)
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(commit, units):
            pass


def measure(count: int, folder: Path) -> dict[str, Any]:
    """Return the seconds and peak memory of the steps of a job of `count` units, and the files of its store."""
    steps: list[dict[str, object]] = []

    def timed(name: str, work: Callable[[], Result]) -> Result:
        began = time.monotonic()
        result = work()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        steps.append({"step": name, "seconds": round(time.monotonic() - began, 1), "peak_memory_mib": memory})
        print(f"{name}: {steps[-1]['seconds']} s, peak memory so far {memory} MiB", flush=True)
        return result

    with tempfile.TemporaryDirectory(dir=folder) as location:
        store, shards = Store(location), count // SHARD
        store.put("job.json", json.dumps({"kind": "invert", "spec": {}, "fingerprint": {}, "machine": {}}).encode())

        def plan() -> None:
            sources = []
            for index in map(new_index, range(shards)):
                write_entries(store, index)
                sources.append((index.url, len(index.entries), index.size, index.etag))
            write_units(store, cut(sources, BATCH, 64))

        def pending() -> int:
            done = store.committed_units()
            return sum(unit.unit not in done for unit in units)

        def write_checkpoint(pending: Iterator[str]) -> None:
            with CheckpointWriter(store, len(units), pending, store.key()):
                pass

        timed(f"plan {shards * SHARD * UNIT:,} samples in {shards:,} shards", plan)
        units = timed(f"read the plan of {shards * SHARD:,} units", lambda: read_units(store))
        first, second = units[: len(units) // 2], units[len(units) // 2 :]
        timed(f"(the workers commit {len(first):,} units)", lambda: commit_all(store, first))
        timed("resume: list the pending units, without a ledger", pending)
        timed("status, without a ledger", lambda: status(store))
        timed(f"write the ledger of {len(first):,} units", lambda: write_checkpoint(unit.unit for unit in second))
        timed("resume: list the pending units, with the ledger", pending)
        timed("status, with the ledger", lambda: status(store))
        timed(f"(the workers commit {len(second):,} units)", lambda: commit_all(store, second))
        timed("write the rest of the ledger", lambda: write_checkpoint(iter(())))
        found = timed("status of all", lambda: status(store))
        assert found.complete
        assert found.input == shards * SHARD * UNIT
        files = {name: files_of(Path(location) / name) for name in ("plan", "commits", "ledger")}
    return {"steps": steps, "files": files}


@program(units=1_000_000, folder=Path(tempfile.gettempdir()))
def store(given: Namespace) -> None:
    """Measure planning, status and resume on a disk.

    The indexes of the shards, the commits and the parts are invented. Everything else that is written and read is that
    of a real job. It does not include reading the headers of real tars, nor the latency of an object store.
    """
    found = measure(given.units, given.folder)
    show(found["steps"], {"": "step", "seconds": "seconds", "peak memory, MiB": "peak_memory_mib"})
    show(
        [{"": name, **counts} for name, counts in found["files"].items()], {"": "", "files": "files", "bytes": "bytes"}
    )
    save("scale", given, **found)
