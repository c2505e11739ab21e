"""Invert image datasets to exact noise latents with EDICT, and edit them in bulk.

Exit status:
0: complete
1: the job is incomplete, has no rows or too many rejects, or a pair is not exact
2: nothing was run, because of the spec, the input, the store, the model or the machine
130: stopped by Ctrl-C
143: stopped by SIGTERM
"""

import json
import logging
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edict import __version__
from jobs.errors import INCOMPLETE, NOT_RUN, exit_on_error
from jobs.evaluation import commands
from jobs.terminal import edit_counts, print_next, print_result, print_status, print_timing, printable
from schemas.locations import without_secrets

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=__doc__,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(commands.app, name="eval")

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="Job spec, a YAML or JSON file.")]
Location = Annotated[
    str, typer.Argument(metavar="STORE", help="Store: the folder or URL that is the `output` of a job.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="FIELD=VALUE",
        help="Override a field of the spec, such as `-s sampler.steps=25`. Repeat it for several fields.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


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
    output: Annotated[Path, typer.Option(help="Folder for the specs, the stores and the images.")] = Path("demo"),
) -> None:
    """Run the whole pipeline on shipped images: invert them, verify the result, and edit them.

    It needs no GPU and no download.
    """
    from jobs.demo.main import run_demo

    with exit_on_error():
        complete = run_demo(output)
    raise typer.Exit(0 if complete else INCOMPLETE)


@app.command()
def plan(spec: SpecPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a spec and its input, and show what would run and what it would cost.

    No model is loaded and nothing is written.
    """
    from jobs.spec_file import load

    with exit_on_error():
        loaded = load(spec, overrides or ())
        # These imports take seconds, and an error in the spec is reported before them.
        from jobs.preview.build import preview
        from jobs.preview.text import as_text

        found = preview(loaded)
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        print("\n".join(map(printable, as_text(found).split("\n"))))


@app.command()
def batch(
    spec: SpecPath,
    largest: Annotated[int, typer.Option(min=1, max=1024, help="Largest batch size to measure.")] = 1024,
    overrides: Overrides = None,
) -> None:
    """Measure the speed of an inversion at batch sizes 1, 2, 4 and so on, and recommend one.

    It measures on one worker. It stops at a size that does not fit into memory, that might fill it, or when two sizes
    in a row are no faster. It recommends the smallest size within 2% of the fastest. No input is read and nothing is
    written.
    """
    from jobs.spec_file import SpecError, load
    from schemas.specs import EditSpec

    with exit_on_error("nothing is written; run the same command again to start over"):
        loaded = load(spec, overrides or ())
        if isinstance(loaded, EditSpec):
            raise SpecError(
                f"{spec} is the spec of an edit, and an edit always has the batch size of its latent store. Give the "
                "spec of an inversion"
            )
        # This import takes seconds, and an error in the spec is reported before it.
        from pipeline.tune_batch import run_batch

        swept = run_batch(loaded, largest=largest, report=print_timing)
    best = swept.best
    print(f"stopped: {swept.ended}")
    print(f"recommended: workers.batch_size: {best.size} ({best.seconds:.3g} s per image on one worker)")
    print("Set it before the first run: the batch size changes the last bits of the rows, so it cannot change later.")


@app.command()
def run(spec: SpecPath, overrides: Overrides = None) -> None:
    """Run a job. Run the same command again to continue an incomplete job.

    The job runs on this machine, or on the Ray cluster of the environment variable RAY_ADDRESS.
    """
    from jobs.spec_file import load

    with exit_on_error():
        loaded = load(spec, overrides or ())
        # This import takes seconds, and an error in the spec is reported before it.
        from jobs.launch import run_spec

        result = run_spec(loaded)
    print_result(loaded.output, result)
    if not result.status.complete:
        words = ["edict", "run", str(spec), *(word for override in overrides or () for word in ("-s", override))]
        again = shlex.join(words)
        shown = f": {printable(again)}" if without_secrets(again) == again else ""
        print(f"incomplete: run it again to do the missing units{shown}")
        raise typer.Exit(INCOMPLETE)
    if result.shortfall:
        raise typer.Exit(INCOMPLETE)
    if loaded.kind == "edit":
        print(edit_counts(result.status))
    print_next(loaded)


@app.command()
def submit(
    spec: SpecPath,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Address of the cluster's Ray dashboard.")
    ] = "http://127.0.0.1:8265",
    overrides: Overrides = None,
) -> None:
    """Run a job on a Ray cluster, and print its log until it ends.

    Run the same command again to follow the running job, or to continue an incomplete one. Ctrl-C does not stop the
    job. Credentials are not sent: every node uses the ones of its own environment.

    Local paths in the spec must exist on every node, so use a shared folder. This includes the folder of the model.
    """
    from jobs.spec_file import load
    from jobs.submit import DisconnectedError, connect, follow, start

    logging.disable(logging.INFO)  # Ray's client logs every package and socket.
    with exit_on_error():
        loaded = load(spec, overrides or ())
        client = connect(address)
        name, is_new = start(client, loaded)
        hint = (
            "run the same command again to follow it, or stop it: "
            f"ray job stop --address {without_secrets(address)} {name}"
        )
        try:
            print(
                f"job {name} {'was submitted' if is_new else 'is running already'}; Ctrl-C does not stop it", flush=True
            )
            ended = follow(client, name)
        except DisconnectedError as error:
            print(f"job {name}: {error}; {hint}", file=sys.stderr)
            raise typer.Exit(INCOMPLETE) from None
        except KeyboardInterrupt:
            print(f"\njob {name} is still running; {hint}", file=sys.stderr)
            raise typer.Exit(130) from None
    if ended.driver_exit_code is None and ended.message:
        print(ended.message)
    print(f"job {name}: {ended.status.value.lower()}")
    if ended.status != "SUCCEEDED":
        raise typer.Exit(NOT_RUN if ended.driver_exit_code == NOT_RUN else INCOMPLETE)


@app.command()
def status(store: Location, as_json: AsJson = False) -> None:
    """Show the progress of a job: its counts, its rejects by class, and its speed.

    Only the store is read. The exit status is 1 while the job is incomplete.
    """
    from pipeline.inspect import status as counts
    from pipeline.store.store import Store

    with exit_on_error():
        found = counts.status(Store(store))
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        print_status(store, found)
    raise typer.Exit(0 if found.complete else INCOMPLETE)


@app.command()
def verify(
    store: Location,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Number of rows to verify, spread evenly.  [default: all]")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of workers.")] = 1,
    gpus: Annotated[
        float | None, typer.Option(help="GPUs per worker; 0 for CPUs.  [default: as many as the job had]")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop the commits of damaged units, so that the next run makes them again.")
    ] = False,
) -> None:
    """Check a store: its counts, its checksums, and that every latent pair regenerates its image latent exactly.

    For edits, it checks that every row has its image. The exit status is 1 if anything is wrong.
    """
    from pipeline.verify import run_verify

    with exit_on_error():
        verified = run_verify(store, rows=rows, count=workers, gpus=gpus, repair=repair)
    for problem in verified.problems:
        print(f"problem: {printable(problem)}")
    if verified.kind == "edit":
        print(f"{verified.exact} of {verified.rows} rows have the image that was committed")
    else:
        print(f"{verified.exact} of {verified.rows} rows regenerate their image latent, integer for integer")
    if rows is not None:
        print(
            "of the other rows, only the names and sizes of files were checked; run edict verify without --rows to "
            "read all"
        )
    if verified.damaged:
        units = f"{len(verified.damaged)} damaged units"
        if repair:
            print(f"the commits of {units} are dropped; run the job's spec again to make them: edict run SPEC")
        else:
            print(f"{units}: `edict verify --repair` drops their commits, and then `edict run` makes them again")
    raise typer.Exit(INCOMPLETE if verified.problems or verified.exact < verified.rows else 0)


@app.command()
def read(
    store: Location,
    columns: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Print only these columns.  [default: all]")
    ] = None,
) -> None:
    """Print the committed rows of a store as JSON, with one object per line. The job may be running."""
    from pipeline.read import read_rows

    with exit_on_error():
        for rows in read_rows(store, columns.split(",") if columns else None):
            for row in rows.to_pylist():
                print(json.dumps(row))


@app.command()
def retry(
    store: Location,
    errors: Annotated[
        list[str],
        typer.Option(
            "--errors",
            metavar="CLASS",
            help="Error class of the rejects to retry, such as CorruptImage. Repeat it for several classes.",
        ),
    ],
) -> None:
    """Try the rejects of a store again. Those that succeed become rows, and the others stay rejected."""
    from jobs.launch import run_retry

    with exit_on_error():
        result = run_retry(store, errors)
    print_result(store, result)
    raise typer.Exit(INCOMPLETE if result.failures or result.shortfall or not result.status.complete else 0)


@app.command()
def gc(store: Location) -> None:
    """Remove the files of attempts that were not committed. The job may be running.

    Files of unfinished units are kept for a day, because their attempts may still commit.
    """
    from pipeline.store.store import Store

    with exit_on_error():
        opened = Store(store)
        opened.job()
        removed = opened.remove_orphan_files()
    print(f"{removed} files removed")


@app.command()
def report(store: Location) -> None:
    """Write report.html into a store, and the contact sheet of an edit."""
    from pipeline.inspect.report.page import write_report
    from pipeline.store.store import Store

    with exit_on_error():
        opened = Store(store)
        opened.job()
        for name in write_report(opened):
            print(f"{store.rstrip('/')}/{name}")


@app.command()
def export(
    store: Location,
    destination: Annotated[
        str, typer.Argument(metavar="DESTINATION", help="Folder or URL to write to. It must be new or empty.")
    ],
    format: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="Format. For latents: parquet, npy or webdataset. For edits: instructpix2pix or pie_bench.",
        ),
    ] = "parquet",
    dtype: Annotated[
        str | None,
        typer.Option(metavar="float32|float16", help="Number type of exported latents.  [default: float32]"),
    ] = None,
) -> None:
    """Export a finished store for other programs: latents as floats, edits as an image dataset.

    Exported floats are not exact. Only the store itself regenerates every bit.
    """
    from pipeline.export.edits import EDIT_FORMATS, export_edits
    from pipeline.export.latents import ExportError
    from pipeline.export.latents import export as write

    with exit_on_error():
        if format in EDIT_FORMATS:
            if dtype is not None:
                raise ExportError(f"--dtype is only valid for latents, and {format} has none. Remove --dtype")
            written = export_edits(store, destination, format=format)
            print(f"{written['written']} rows of {written['parts']} parts, {format}: {destination}")
            if left_out := written["rows"] - written["written"]:
                print(f"{left_out} of {written['rows']} rows are left out: their source shard was changed or removed")
            return
        written = write(store, destination, format=format, dtype=dtype or "float32")
    print(f"{written['rows']} rows of {written['parts']} parts, {written['dtype']} {format}: {destination}")


@app.command()
def schema(kind: Annotated[str, typer.Argument(metavar="invert|edit", help="Kind of job.")]) -> None:
    """Print the JSON Schema of a job spec."""
    from schemas.specs import KINDS, json_schema

    if kind not in KINDS:
        raise typer.BadParameter(f"{kind!r} is not a kind of job. Give {' or '.join(KINDS)}")
    print(json.dumps(json_schema(kind), indent=2))
