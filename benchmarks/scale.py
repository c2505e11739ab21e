"""A million units: what planning, status and resume take, in seconds, bytes on disk and memory.

`python -m benchmarks.scale`. The shards' indexes and the commits are made up, since nobody has 64 million pictures at
hand; everything that is written and read is what a real job writes and reads, on a disk. Not in it: reading the headers
of real tars, and an object store's latency.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from benchmarks.record import save
from jobs.evaluation.record import table
from pipeline.inspect.status import status
from pipeline.io.shards import Entry, ShardIndex
from pipeline.plan.units import cut
from pipeline.store.checkpoint import CheckpointWriter
from pipeline.store.plan import Unit, read_units, write_entries, write_units
from pipeline.store.store import Store
from schemas.commit import Commit, File, Seconds
from schemas.rejects import Reject

Result = TypeVar("Result")

BATCH, UNIT, A_SHARD = 16, 64, 160  # samples a batch, a unit; units a shard
BYTES = 12_000  # of a sample in its shard


def index(ordinal: int) -> ShardIndex:
    entries = tuple(Entry(i, f"{ordinal:05d}{i:05d}", i * BYTES, (i + 1) * BYTES, None) for i in range(UNIT * A_SHARD))
    return ShardIndex(f"s3://photos/train/{ordinal:05d}.tar", len(entries) * BYTES, f"{ordinal:032x}", entries)


def commit(unit: Unit) -> Commit:
    """As a worker writes it; every tenth with a reject."""
    attempt = f"{unit.unit}-1-0123abcd"
    number = int(unit.unit)
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


def size(folder: Path) -> tuple[int, int]:
    """Files, and bytes in them."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    arguments.add_argument("--units", type=int, default=1_000_000, help="units of the job")
    arguments.add_argument("--folder", type=Path, default=None, help="where the store is made; it is removed again")
    given = arguments.parse_args()
    steps: list[dict[str, object]] = []

    def timed(name: str, work: Callable[[], Result]) -> Result:
        began = time.monotonic()
        result = work()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        steps.append({"step": name, "seconds": round(time.monotonic() - began, 1), "peak_memory_mib": memory})
        print(f"{name}: {steps[-1]['seconds']} s, memory at most {memory} MiB so far", flush=True)
        return result

    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        store = Store(folder)
        shards = given.units // A_SHARD
        store.put("job.json", json.dumps({"kind": "invert", "spec": {}, "fingerprint": {}, "machine": {}}).encode())

        def plan() -> None:
            sources = []
            for ordinal in range(shards):
                found = index(ordinal)
                write_entries(store, found)
                sources.append((found.url, len(found.entries), found.size, found.etag))
            write_units(store, cut(sources, BATCH, 64))

        timed(f"plan {shards * A_SHARD * UNIT:,} samples in {shards:,} shards", plan)
        units = timed(f"read the plan of {shards * A_SHARD:,} units", lambda: read_units(store))
        half = len(units) // 2

        def work(some: list[Unit]) -> None:
            with ThreadPoolExecutor(4) as pool:
                for _ in pool.map(lambda unit: store.commit(commit(unit)), some):
                    pass

        def left() -> int:
            done = store.committed()
            return sum(unit.unit not in done for unit in units)

        timed(f"(the workers commit {half:,} units)", lambda: work(units[:half]))
        timed("resume: which units are left, without a ledger", left)
        timed("status, without a ledger", lambda: status(store))

        def compact(pending: Iterator[str]) -> None:
            with CheckpointWriter(store, len(units), pending, store.key()):
                pass

        timed(f"write the ledger of {half:,} units", lambda: compact(u.unit for u in units[half:]))
        timed("resume: which units are left, with the ledger", left)
        timed("status, with the ledger", lambda: status(store))
        timed(f"(the workers commit {len(units) - half:,} units)", lambda: work(units[half:]))
        timed("write the rest of the ledger", lambda: compact(iter(())))
        found = timed("status of all", lambda: status(store))
        assert found.complete
        assert found.input == shards * A_SHARD * UNIT
        files = {name: size(Path(folder) / name) for name in ("plan", "commits", "ledger")}
    print(table(["", "seconds", "peak memory, MiB"], [list(step.values()) for step in steps]))
    print(table(["", "files", "bytes"], [(name, count, total) for name, (count, total) in files.items()]))
    print(save("scale", given, steps=steps, files={name: {"files": n, "bytes": b} for name, (n, b) in files.items()}))


if __name__ == "__main__":
    main()
