"""The command line, `edict`: what a person says becomes a spec, a spec becomes a run.

Exit status: 0 complete; 1 some work was done, but the job is incomplete, has no row or too many rejects, or a pair is
not exact; 2 nothing was run, because of the spec, the input, the store, the model or the machine; 130 stopped by
Ctrl-C; 143 stopped by SIGTERM.
"""

import json
import logging
import shlex
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edict import __version__
from jobs.errors import INCOMPLETE, NOT_RUN, reported
from jobs.evaluation import commands
from schemas.locations import without_secrets

if TYPE_CHECKING:
    from pipeline.inspect.status import Status
    from pipeline.run import RunResult
    from pipeline.tune_batch import BatchTiming
    from schemas.specs import EditSpec, InvertSpec

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=__doc__,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(commands.app, name="eval")

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="A job spec, YAML or JSON.")]
Location = Annotated[str, typer.Argument(metavar="STORE", help="A store: the `output` of a job.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="FIELD=VALUE", help="Override a field of the spec: -s sampler.steps=25."),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"edict-pipeline {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where specs, stores and pictures go.")] = Path("demo"),
) -> None:
    """The embedded default, end to end: invert shipped pictures, verify them, edit them, show them."""
    from jobs.demo.main import run_demo

    with reported():
        complete = run_demo(output)
    raise typer.Exit(0 if complete else INCOMPLETE)


@app.command()
def plan(spec: SpecPath, overrides: Overrides = None) -> None:
    """Index and validate the input, print what would run and what it would cost; loads no model, writes nothing."""
    from jobs.spec_file import load

    with reported():
        loaded = load(spec, overrides or ())
        from jobs.preview import preview  # takes seconds, for which a slip in the spec need not wait

        print("\n".join(map(plain, preview(loaded).split("\n"))))


@app.command()
def batch(
    spec: SpecPath,
    largest: Annotated[int, typer.Option(min=1, max=1024, help="Measure no larger batch.")] = 1024,
    overrides: Overrides = None,
) -> None:
    """Measure an inversion's batch sizes on one worker, and say which to take; reads no input, writes nothing.

    1, 2, 4, ..., until one does not fit, might fill the machine, or two in a row bring no gain. To be taken is the
    smallest that is within 2 % of the fastest.
    """
    from jobs.spec_file import SpecError, load
    from schemas.specs import EditSpec

    with reported("nothing is written; the same command starts again"):
        loaded = load(spec, overrides or ())
        if isinstance(loaded, EditSpec):
            raise SpecError(
                f"{spec}: is an edit, whose batch is that of its latent store, which alone regenerates to the bit; "
                "expected the spec of an inversion"
            )
        from pipeline.tune_batch import run_batch  # takes seconds, for which a slip in the spec need not wait

        swept = run_batch(loaded, largest=largest, report=print_timing)
    best = swept.best
    print(f"ended: {swept.ended}")
    print(f"take workers.batch_size: {best.size}, {best.seconds:.3g} s a picture on one worker")
    print("It is part of the job, since rows of another batch have other last bits: set it before the first run.")


@app.command()
def run(spec: SpecPath, overrides: Overrides = None) -> None:
    """Run a job here, or on the cluster that RAY_ADDRESS names; run it again to finish what is missing."""
    from jobs.spec_file import load

    with reported():
        loaded = load(spec, overrides or ())
        from jobs.launch import run_spec  # takes seconds, for which a slip in the spec need not wait

        result = run_spec(loaded)
    print_result(loaded.output, result)
    if not result.status.complete:
        words = ["edict", "run", str(spec), *(word for override in overrides or () for word in ("-s", override))]
        again = shlex.join(words)
        shown = f": {plain(again)}" if without_secrets(again) == again else ""
        print(f"incomplete: run it again to do the missing units{shown}")
        raise typer.Exit(INCOMPLETE)
    if result.shortfall:
        raise typer.Exit(INCOMPLETE)
    print_next(loaded)


@app.command()
def submit(
    spec: SpecPath,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard, as http://head:8265.")
    ] = "http://127.0.0.1:8265",
    overrides: Overrides = None,
) -> None:
    """Run a job on a cluster through Ray Jobs, and follow its log; again, to follow it further, or to finish it.

    Ctrl-C leaves the job running. Credentials stay here: the nodes take them from their own environment.

    Local paths in the spec, the model's folder too, have to mean the same on every node: a folder that all share.
    """
    from jobs.spec_file import load
    from jobs.submit import DisconnectedError, connect, follow, start

    logging.disable(logging.INFO)  # Ray's client tells of every package and socket
    with reported():
        loaded = load(spec, overrides or ())
        client = connect(address)
        name, new = start(client, loaded)
        on = f"the same command follows it again; to stop it: ray job stop --address {without_secrets(address)} {name}"
        try:
            print(f"job {name} {'is started' if new else 'is running already'}; Ctrl-C leaves it running", flush=True)
            ended = follow(client, name)
        except DisconnectedError as error:
            print(f"job {name}: {error}; {on}", file=sys.stderr)
            raise typer.Exit(INCOMPLETE) from None
        except KeyboardInterrupt:
            print(f"\njob {name} goes on; {on}", file=sys.stderr)
            raise typer.Exit(130) from None
    if ended.driver_exit_code is None and ended.message:
        print(ended.message)
    print(f"job {name}: {ended.status.value.lower()}")
    if ended.status != "SUCCEEDED":
        raise typer.Exit(NOT_RUN if ended.driver_exit_code == NOT_RUN else INCOMPLETE)


@app.command()
def status(
    store: Location, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """Counts, rejects by class and the rate, from storage alone. Exit status 1 while the job is incomplete."""
    from pipeline.inspect import status as counts
    from pipeline.store.store import Store

    with reported():
        found = counts.status(Store(store))
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        print_status(store, found)
    raise typer.Exit(0 if found.complete else INCOMPLETE)


@app.command()
def verify(
    store: Location,
    rows: Annotated[int | None, typer.Option(min=1, help="Verify this many rows, spread evenly; default: all.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of workers.")] = 1,
    gpus: Annotated[
        float | None, typer.Option(help="GPUs per worker; 0 runs on the CPU. Default: as many as the job had.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop the commits of damaged units, so that the next run makes them again.")
    ] = False,
) -> None:
    """Check a store: its counts, its checksums, and that each pair regenerates its start, or each edit has its image.

    The exit status is 1 if anything is wrong.
    """
    from pipeline.verify import run_verify

    with reported():
        verified = run_verify(store, rows=rows, count=workers, gpus=gpus, repair=repair)
    for problem in verified.problems:
        print(f"problem: {plain(problem)}")
    if verified.kind == "edit":
        print(f"{verified.exact} of {verified.rows} rows have the image that was committed")
    else:
        print(f"{verified.exact} of {verified.rows} rows regenerate their starting lattice, integer for integer")
    if rows is not None:
        print("of the other rows only the names and sizes of files were checked; edict verify without --rows reads all")
    if verified.damaged:
        units = f"{len(verified.damaged)} damaged units"
        again = f"the commits of {units} are dropped; run the job's spec again to make them: edict run SPEC"
        print(
            again if repair else f"{units}; edict verify --repair drops their commits, then edict run makes them again"
        )
    raise typer.Exit(INCOMPLETE if verified.problems or verified.exact < verified.rows else 0)


@app.command()
def read(
    store: Location,
    columns: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Print only these columns; default: all.")
    ] = None,
) -> None:
    """Print the committed rows of a store as JSON, one object per line, also while its job runs."""
    from pipeline.read import read_rows

    with reported():
        for batch in read_rows(store, columns.split(",") if columns else None):
            for row in batch.to_pylist():
                print(json.dumps(row))


@app.command()
def retry(
    store: Location,
    errors: Annotated[
        list[str], typer.Option("--errors", metavar="CLASS", help="The rejects to try again, by error; may come often.")
    ],
) -> None:
    """Try rejects of a store again, and nothing else; what succeeds becomes rows, the rest stays rejected."""
    from jobs.launch import run_retry

    with reported():
        result = run_retry(store, errors)
    print_result(store, result)
    raise typer.Exit(INCOMPLETE if result.failures or result.shortfall or not result.status.complete else 0)


@app.command()
def gc(store: Location) -> None:
    """Remove the files of attempts that did not commit. Safe while a job runs.

    Files of unfinished units are kept for a day, because an attempt may still commit them.
    """
    from pipeline.store.store import Store

    with reported():
        opened = Store(store)
        opened.job()
        removed = opened.remove_orphan_files()
    print(f"{removed} files removed")


@app.command()
def report(store: Location) -> None:
    """Write report.html (and the contact sheets of an edit) into a store, from what is stored."""
    from pipeline.inspect.report.page import write_report
    from pipeline.store.store import Store

    with reported():
        opened = Store(store)
        opened.job()
        for name in write_report(opened):
            print(f"{store.rstrip('/')}/{name}")


@app.command()
def export(
    store: Location,
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="A folder or a URL, empty or new.")],
    format: Annotated[
        str,
        typer.Option(
            metavar="FORMAT", help="Of latents: parquet, npy or webdataset. Of edits: instructpix2pix or pie_bench."
        ),
    ] = "parquet",
    dtype: Annotated[
        str | None,
        typer.Option(metavar="float32|float16", help="The floats of latents; float32 if not given."),
    ] = None,
) -> None:
    """Write a finished store out for other people's code: latents as plain floats, edits as a data set of pictures.

    Floats are not exact: only the store itself regenerates pictures to the bit.
    """
    from pipeline.export.edits import EDIT_FORMATS, export_edits
    from pipeline.export.latents import ExportError
    from pipeline.export.latents import export as write

    with reported():
        if format in EDIT_FORMATS:
            if dtype is not None:
                raise ExportError(f"{format} has no floats: leave --dtype out")
            written = export_edits(store, destination, format=format)
            print(f"{written['written']} rows of {written['parts']} parts, {format}: {destination}")
            if left_out := written["rows"] - written["written"]:
                print(f"{left_out} of {written['rows']} rows are left out: their source shard was changed or is gone")
            return
        written = write(store, destination, format=format, dtype=dtype or "float32")
    print(f"{written['rows']} rows of {written['parts']} parts, {written['dtype']} {format}: {destination}")


@app.command()
def schema(kind: Annotated[str, typer.Argument(metavar="invert|edit", help="The kind of job.")]) -> None:
    """Print the JSON Schema of a job spec."""
    from schemas.specs import KINDS, json_schema

    if kind not in KINDS:
        raise typer.BadParameter(f"there is no kind {kind!r}; the kinds are {', '.join(KINDS)}")
    print(json.dumps(json_schema(kind), indent=2))


def print_timing(timing: "BatchTiming") -> None:
    """What was measured at a batch size: a network call, the inversion that such calls make, and the peak of memory."""
    rates = (timing.call, 1 / timing.seconds, timing.seconds)
    lines = [(str(timing.size), *(f"{rate:#.4g}" for rate in rates), f"{timing.peak / 2**30:.2f}")]
    if timing.size == 1:
        lines.insert(0, ("batch_size", "s a call", "pictures/s", "s a picture", "peak GiB"))
    for line in lines:
        print("".join(f"{cell:>12}" for cell in line), flush=True)


def print_next(spec: "InvertSpec | EditSpec") -> None:
    """Print the usual next command after a complete run; none if it would contain a secret."""
    from edict.samplers import SAMPLERS

    store = shlex.quote(spec.output)
    if spec.kind == "edit":
        command = f"edict export {store} DESTINATION --format instructpix2pix"
    elif SAMPLERS[spec.sampler.name].exact:
        command = f"edict verify {store}"
    else:
        return
    if without_secrets(spec.output) == spec.output:
        print(f"{'next':<10} {plain(command)}")


def print_result(store: str, result: "RunResult") -> None:
    """Print the result of a run: the counts of its store, its report and contact sheet, and the failed units."""
    print_status(store, result.status)
    for name, path in result.pages.items():
        print(f"{name:<10} {plain(path)}")
    for failure in result.failures:
        print(f"failed: {plain(failure)}")
    if result.shortfall:
        print(f"failed: {plain(result.shortfall)}")


def plain(text: str) -> str:
    """Return a text as one line for a terminal, with control characters and lone surrogates escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_status(store: str, found: "Status") -> None:
    """Print the counts of a store as aligned lines, its rejects by class."""
    from pipeline.inspect.status import describe_run

    rate = "unknown" if found.images_per_second is None else f"{found.images_per_second:.2f}"
    listed = f" (each is named in {store.rstrip('/')}/report.html)" if found.rejected else ""
    rows = [
        (found.kind, store),
        ("complete", "yes" if found.complete else "no"),
        ("units", f"{found.committed} of {found.units}"),
        ("input", f"{found.input} of {found.planned}"),
        ("ok", str(found.ok)),
        (
            "rejected",
            str(found.rejected) + "".join(f"  {name} {count}" for name, count in found.rejects.items()) + listed,
        ),
        ("filtered", str(found.filtered)),
        ("images/s", rate),
        ("attempts", f"{found.attempts} for {found.committed} units"),
    ]
    if found.input < found.planned:
        left = "unknown" if found.eta_seconds is None else str(timedelta(seconds=round(found.eta_seconds)))
        rows.append(("left", left))
    if found.run is not None and not found.complete:
        rows.append(("last run", describe_run(found.run)))
    for name, lines in (("problem", found.problems), ("note", found.notes), ("straggler", found.stragglers)):
        rows += [(name, line) for line in lines]
    for name, value in rows:
        print(f"{name:<10} {plain(value)}")
