"""The parts that all benchmarks share: arguments, rounds of measurements, tables and result files."""

import argparse
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import torch

from edict import Pair
from jobs.demo import SHARDS
from jobs.evaluation import record
from pipeline.io.samples import Sample, read_samples
from pipeline.io.shard_index import ShardIndex, index_shard

RESULTS = Path(__file__).parent / "results"
HELP = {
    "actors": "number of real Ray actors",
    "batch": "images per network call",
    "bits": "bits of the lattice",
    "compile": "also measure compiled networks",
    "count": "number of images or edits; 0 takes all",
    "cuts": "number of power cuts",
    "delays": "delays of the S3 server's requests, in ms",
    "folder": "folder for temporary files",
    "guidance": "guidance scale",
    "images": "number of images per worker",
    "ode": "steps of the DDIM inversion that stands for the ODE",
    "offsets": "values of steps_offset",
    "p": "mixing weight p of EDICT",
    "pairs": "number of pairs of drawings, with two captions each",
    "per_kind": "number of test edits of every kind",
    "photos": "number of large images",
    "processes": "number of processes with one thread each",
    "rounds": "rounds of measurements, in which the contenders take turns",
    "rows": "number of rows",
    "runs": "number of runs, of each kind if there are several",
    "samples": "number of samples",
    "seconds": "seconds per measurement",
    "seed": "seed of the first run; each later run adds 1",
    "single_batches": "batch sizes of a single process",
    "size": "images per subset",
    "sizes": "batch sizes",
    "steps": "steps of the sampler",
    "strength": "strength of the edits",
    "subsets": "number of subsets for the kernel distance",
    "tflops": "TFLOP/s of the GPU for which shares are computed",
    "thread_counts": "numbers of CPU threads of torch",
    "threads": "CPU threads of torch",
    "timed_steps": "steps of the sampler for the seconds",
    "tune": "pairs of every kind on which settings are chosen, as in `edict eval edits`",
    "tune_steps": "steps at which settings are chosen",
    "units": "number of units",
    "workers": "number of workers",
}
EDICT = ("-c", "from jobs.cli import app; app()")
"""The arguments of Python that run the command `edict`."""

Key = TypeVar("Key")
Result = TypeVar("Result")
Row = Mapping[str, Any]


class Program(NamedTuple):
    """A function with its command line options: defaults by name."""

    function: Callable[[argparse.Namespace], None]
    options: Mapping[str, Any]


def program(**options: Any) -> Callable[[Callable[[argparse.Namespace], None]], Program]:
    """Make a function a program. Each option has a default: a number, a text, a path, or a list of integers."""
    return lambda function: Program(function, options)


def run(description: str | None, *programs: Program) -> None:
    """Run a program with the arguments of the command line. Several programs are sub-commands, named by function."""
    kwargs: Any = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    parser = argparse.ArgumentParser(description=description, **kwargs)
    commands = parser.add_subparsers(required=True) if len(programs) > 1 else None
    for each in programs:
        name, text = each.function.__name__, each.function.__doc__
        one = commands.add_parser(name, description=text, help=text, **kwargs) if commands else parser
        one.set_defaults(function=each.function)
        for option, default in each.options.items():
            kind: Any = _numbers if isinstance(default, list) else type(default)
            option_kwargs = {"action": "store_true"} if default is False else {"type": kind, "default": default}
            one.add_argument(f"--{option.replace('_', '-')}", help=HELP[option], **option_kwargs)
    given = parser.parse_args()
    function = vars(given).pop("function")
    if "threads" in given:
        torch.set_num_threads(given.threads)
    function(given)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def seconds(call: Callable[[], object]) -> float:
    """Return the wall-clock seconds of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def alternate(rounds: int, contenders: Mapping[Key, Callable[[], Result]]) -> dict[Key, list[Result]]:
    """Call every contender once per round, in turn (A B A B). Return the results of the rounds by contender."""
    results: dict[Key, list[Result]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            results[name].append(call())
    return results


def ratios(numerators: Iterable[float], denominators: Iterable[float]) -> list[float]:
    """Return the ratios of two contenders, round by round."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Format rounds as "median [lowest, highest]"."""
    return f"{median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def show(rows: Iterable[Row], columns: Mapping[str, str | Callable[[Any], object]], title: str = "") -> None:
    """Print rows as a Markdown table.

    A column is the name of a field, which a format specification may follow ("seconds:.2f"), or a function of the row.
    A field that is absent or None is an empty cell.
    """

    def cell(row: Row, column: str | Callable[[Any], object]) -> object:
        if not isinstance(column, str):
            return column(row)
        name, _, form = column.partition(":")
        value = row.get(name)
        return "" if value is None else format(value, form)

    lines = [[cell(row, column) for column in columns.values()] for row in rows]
    print((f"\n{title}\n\n" if title else "\n") + record.table(tuple(columns), lines), flush=True)


def save(name: str | Path, given: argparse.Namespace, **content: Any) -> None:
    """Write RESULTS/NAME.json: `content` with the hardware, versions, arguments and the weights of the shipped model.

    An absolute name is used as it is.
    """
    arguments = {key: str(value) if isinstance(value, Path) else value for key, value in vars(given).items()}
    file = RESULTS / f"{name}.json"
    record.save(file, arguments, **content)
    print(f"\nwritten to {file}", flush=True)


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype without the prefix "torch."."""
    return str(dtype).removeprefix("torch.")


def differing_integers(pair: Pair, other: Pair, faults: Container[int] = ()) -> int:
    """Count the integers that differ between two pairs, without the samples that have a fault."""
    rows = [i for i in range(len(pair)) if i not in faults]
    return int((pair.x[rows] != other.x[rows]).sum() + (pair.y[rows] != other.y[rows]).sum())


def read(index: ShardIndex) -> list[Sample]:
    """Return the samples of a shard that can be read."""
    found = read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries)
    return [sample for sample in found if isinstance(sample, Sample)]


def shipped_samples() -> list[Sample]:
    """Return the samples of the demo's shards."""
    return [sample for file in sorted(SHARDS.glob("*.tar")) for sample in read(index_shard(str(file)))]
