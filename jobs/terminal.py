"""The output of the commands on a terminal: the counts of a store, the result of a run, and the usual next command."""

import shlex
from datetime import timedelta
from typing import TYPE_CHECKING

from schemas.locations import without_secrets

if TYPE_CHECKING:
    from pipeline.inspect.status import Status
    from pipeline.run import RunResult
    from pipeline.tune_batch import BatchTiming
    from schemas.specs import EditSpec, InvertSpec


def printable(text: str) -> str:
    """Return a text as one line for a terminal, with control characters and lone surrogates escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_field(name: str, value: str) -> None:
    """Print a line with a label."""
    print(f"{name:<10} {printable(value)}")


def print_status(store: str, status: "Status") -> None:
    """Print the counts of a store, its rejects by class, and its problems."""
    from pipeline.inspect.status import describe_run

    rejects = "".join(f"  {name} {count}" for name, count in status.rejects.items())
    listed = f" (each is named in {store.rstrip('/')}/report.html)" if status.rejected else ""
    rate = "unknown" if status.images_per_second is None else f"{status.images_per_second:.2f} images per second"
    print_field(status.kind, store)
    print_field("complete", "yes" if status.complete else "no")
    print_field("units", f"{status.committed} of {status.units}")
    print_field("input", f"{status.input} of {status.planned}")
    print_field("ok", str(status.ok))
    print_field("rejected", f"{status.rejected}{rejects}{listed}")
    print_field("filtered", str(status.filtered))
    print_field("rate", rate)
    print_field("attempts", f"{status.attempts} for {status.committed} units")
    if status.input < status.planned:
        seconds = status.eta_seconds
        print_field("time left", "unknown" if seconds is None else str(timedelta(seconds=round(seconds))))
    if status.run is not None and not status.complete:
        print_field("last run", describe_run(status.run))
    for name, lines in (("problem", status.problems), ("note", status.notes), ("straggler", status.stragglers)):
        for line in lines:
            print_field(name, line)


def print_result(store: str, result: "RunResult") -> None:
    """Print the result of a run: the counts of its store, its report and contact sheet, and the failed units."""
    print_status(store, result.status)
    for name, path in result.pages.items():
        print_field(name, path)
    for failure in result.failures:
        print(f"failed: {printable(failure)}")
    if result.shortfall:
        print(f"failed: {printable(result.shortfall)}")


def edit_counts(status: "Status") -> str:
    """Return the counts of an edit job as one line. They add up to the number of images."""
    return (
        f"{status.ok} edited, {status.filtered} filtered (the caption would not change), {status.rejected} rejected: "
        f"{status.input} of {status.planned} images"
    )


def print_next(spec: "InvertSpec | EditSpec") -> None:
    """Print the usual next command after a complete run, unless it would contain a secret."""
    from edict.samplers import SAMPLERS

    store = shlex.quote(spec.output)
    if spec.kind == "edit":
        command = f"edict export {store} DESTINATION --format instructpix2pix"
    elif SAMPLERS[spec.sampler.name].exact:
        command = f"edict verify {store}"
    else:
        return
    if without_secrets(spec.output) == spec.output:
        print_field("next", command)


def print_timing(timing: "BatchTiming") -> None:
    """Print the speed of a batch size as a row of a table, and the head of the table before the first row."""
    rates = (timing.call, 1 / timing.seconds, timing.seconds)
    lines = [(str(timing.size), *(f"{rate:#.4g}" for rate in rates), f"{timing.peak / 2**30:.2f}")]
    if timing.size == 1:
        lines.insert(0, ("batch_size", "s/call", "images/s", "s/image", "peak GiB"))
    for line in lines:
        print("".join(f"{cell:>12}" for cell in line), flush=True)
