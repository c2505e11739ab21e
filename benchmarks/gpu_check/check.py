"""Run the parts one after the other within a time limit, and write their results."""

import argparse
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check import bits
from benchmarks.gpu_check.commands import commands
from benchmarks.gpu_check.shapes import load
from benchmarks.gpu_check.speed import BATCH, BATCHES, Speed, message, parts, product_rates
from benchmarks.harness import dtype_name
from edict import EDICT
from jobs.evaluation import record
from pipeline.profiling import reset_memory_peak, seconds_of, timed
from pipeline.workers.provenance import gpu_versions, processor

Found = dict[str, Any]


class OutOfTime(BaseException):
    """The time limit passed within a part. It is not an Exception, because a compiler would catch it."""


class Check:
    """The results so far, in a file, and the time that is left."""

    def __init__(self, given: argparse.Namespace, began: float) -> None:
        self.given, self.began, self.deadline = given, began, began + 60 * given.minutes
        self.found = Found()
        self.failed = False

    def attempt(self, *path: str, measure: Callable[[], Any]) -> Any:
        """Measure, and store the result under `path`, or the reason for its absence."""
        began = time.monotonic()
        result: Any
        if (left := self.deadline - began) <= 0:
            result = {"skipped": "no time is left"}
        else:
            signal.setitimer(signal.ITIMER_REAL, left)
            try:
                result = measure()
            except (Exception, OutOfTime) as error:
                result = {"failed": message(error)}
                self.failed |= isinstance(error, Exception)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        at = self.found
        for name in path[:-1]:
            at = at.setdefault(name, {})
        at[path[-1]] = result
        self.write()
        note = f": {result['failed']}" if isinstance(result, dict) and "failed" in result else ""
        print(f"{time.monotonic() - began:6.1f} s  {': '.join(path)}{note}", flush=True)
        return result

    def write(self) -> None:
        content = self.found | {"seconds": time.monotonic() - self.began}
        arguments = {name: str(value) for name, value in vars(self.given).items()}
        record.save(self.given.output, arguments, packages=("transformers", "ray"), **content)


def check(given: argparse.Namespace, began: float) -> int:
    """Run every part. Return the exit status, which is 1 if a part failed."""
    on_cuda = given.device == "cuda"
    if on_cuda and not torch.cuda.is_available():
        print("torch finds no CUDA device. Use a machine with one, or add --device cpu --small.")
        return 2
    bits.set_threads(given.device)
    signal.signal(signal.SIGALRM, stop)
    run = Check(given, began)
    run.attempt("machine", measure=lambda: machine(given.device))
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in commands(Path(folder), gpus=1 if on_cuda else 0, small=given.small).items():
            run.attempt("commands", name, measure=measure)
        check_bits(run, Path(folder))
        check_speed(run, Path(folder))
    for text in tables(run.found):
        print(f"\n{text}")
    print(f"\n{time.monotonic() - began:.0f} s; written to {given.output}")
    return int(run.failed)


def check_bits(run: Check, folder: Path) -> None:
    """Check the shipped model, or a narrow one, in the default batch, in every dtype."""
    given = run.given
    count = 2 if given.small else BATCH
    path = folder / "sd15" if given.small else None
    if path is not None:
        load("sd15", path, dtype=torch.float32, device=given.device, small=True)  # This writes it.
    for dtype in bits.DTYPES:

        def measure(dtype: torch.dtype = dtype) -> Found:
            model = bits.load(path, dtype, given.device)
            return bits.independence(model, count) | {"round trip": bits.round_trip(model, count, 2)}

        run.attempt("bits", dtype_name(dtype), measure=measure)

    def restarted() -> Found:
        again = bits.in_another_process(path, given.device, count)
        return {
            dtype_name(dtype): again[str(dtype)] == run.found["bits"][dtype_name(dtype)].get("sha256")
            for dtype in bits.DTYPES
        }

    run.attempt("bits", "the same in another process", measure=restarted)


def check_speed(run: Check, folder: Path) -> None:
    """Measure networks of the published sizes."""
    given, on_cuda = run.given, run.given.device == "cuda"
    rates = run.attempt("matmul, TFLOP/s", measure=lambda: product_rates(given.device, 64 if given.small else 8192))
    models: dict[Any, EDICT] = {}  # only the last one
    speed = Speed(rates, BATCHES[:2], seconds_of) if given.small else Speed(rates, BATCHES, timed)
    for part in parts(speed, on_cuda):
        found = run.found.setdefault("shapes", {}).setdefault(part.shape, {})

        def measure(part: Any = part, found: Found = found) -> Any:
            try:
                if (key := (part.shape, part.dtype)) not in models:
                    models.clear()
                    reset_memory_peak(torch.device(given.device))
                    models[key] = load(
                        part.shape, folder / part.shape, dtype=part.dtype, device=given.device, small=given.small
                    )
                return part.measure(models[key], found)
            except BaseException:
                models.clear()  # The model may have changed.
                raise

        run.attempt("shapes", part.shape, part.name, measure=measure)


def machine(device: str) -> Found:
    """Describe the machine."""
    if device == "cpu":
        return {"processor": processor("cpu")}
    properties = torch.cuda.get_device_properties()
    return {
        "processor": processor("cuda"),
        "memory, GiB": properties.total_memory / 2**30,
        "capability": [properties.major, properties.minor],
        **gpu_versions(),
    }


def stop(*_: object) -> None:
    raise OutOfTime("the time limit passed")


def tables(found: Found) -> Iterator[str]:
    """Yield the results in Markdown: a table per kind of part, with the columns that any of its rows has."""
    kinds = defaultdict[str, list[Found]](list, {"matmul, TFLOP/s": [found["matmul, TFLOP/s"]]})
    kinds["commands"] = [{"command": name, **result} for name, result in found["commands"].items()]
    kinds["bits"] = [{"dtype": name, **result} for name, result in found["bits"].items()]
    for shape, results in found["shapes"].items():
        for name, result in results.items():
            rows = result if isinstance(result, list) else [result]
            kind = name if name in ("size", "batches", "other parts", "step") else "variants"
            kinds[kind] += [{"shape": shape, "part": name, **row} for row in rows]
    for kind, rows in kinds.items():  # Each has at least one row, with the reason if there is no result.
        rows = [flat(row) for row in rows]
        head = [name for name in dict.fromkeys(name for row in rows for name in row) if not name.endswith("sha256")]
        yield f"{kind}\n\n" + record.table(head, [[cell(row.get(name, "")) for name in head] for row in rows])


def flat(row: Mapping[str, Any]) -> Found:
    """Return a row without lists, and with a column for each item of its dictionaries."""
    cells = Found()
    for name, value in row.items():
        if isinstance(value, Mapping):
            cells |= {f"{name}: {inner}": nested for inner, nested in flat(value).items()}
        elif not isinstance(value, list):
            cells[name] = value
    return cells


def cell(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value
