"""The commands of `edict eval`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.errors import exit_on_error
from jobs.evaluation.errors import EvaluationError

if TYPE_CHECKING:
    from edict import EDICT
    from jobs.evaluation.edits import EditResults
    from jobs.evaluation.methods import Setting
    from jobs.evaluation.truth import ReferenceEdit

app = typer.Typer(no_args_is_help=True, help="Measure image quality: Table 1 of the paper, edits, and PIE-Bench.")

Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.json",
        dir_okay=False,
        help="Also write the results to this file, with the hardware, versions and arguments.",
    ),
]
Batch = Annotated[int, typer.Option(min=1, help="Number of images per network call.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Number of CPU threads.  [default: chosen by torch]")]
Scales = Annotated[
    tuple[float, float, float],
    typer.Option(
        metavar="STRENGTH INVERSION EDIT",
        help="Strength, and guidance scales of the inversion and of the edit. Ignored with --grid.",
    ),
]
RESTART = "no results are kept; run the same command again to start over"


@app.command()
def table1(
    input: Annotated[
        str | None,
        typer.Option(
            metavar="SHARDS",
            help="WebDataset shards, such as 'photos/{00000..00031}.tar'.  [default: the shipped images]",
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of images: the first ones of the shards.")] = 64,
    steps: Annotated[str, typer.Option(metavar="N,N,...", help="Numbers of steps to measure.")] = "50,100,200",
    batch: Batch = 16,
    threads: Threads = None,
    output: Output = None,
) -> None:
    """Measure the paper's Table 1: the error of inversion and regeneration by EDICT and by DDIM.

    The model is the default model.
    """
    import torch

    from jobs.evaluation import table1 as evaluation
    from jobs.evaluation.record import save, table
    from jobs.evaluation.truth import captioned_images
    from pipeline.io.shard_list import expand_shards

    try:
        numbers = [int(number) for number in steps.split(",")]
    except ValueError:
        message = f"{steps!r} is not a list of numbers. Separate numbers with commas: 50,100,200"
        raise typer.BadParameter(message, param_hint="--steps") from None
    with exit_on_error(RESTART):
        model = _prepared_model(output, threads)
        _check_steps(model, [1.0], numbers)
        samples = captioned_images(None if input is None else expand_shards(input), count, model.size)
        rows = evaluation.measure(model, samples, steps=numbers, batch=batch)
        print(table(evaluation.HEAD, [evaluation.line(row) for row in rows]))
        if output is not None:
            arguments = {"batch": batch, "threads": torch.get_num_threads(), "count": count, "steps": numbers}
            save(output, arguments | ({} if input is None else {"input": input}), rows=rows)
            print(f"\nresults: {output}")


@app.command()
def edits(
    per_kind: Annotated[
        int | None, typer.Option(min=1, help="Test only the first N edits of each kind.  [default: all]")
    ] = None,
    tune: Annotated[
        int,
        typer.Option(min=0, help="Keep the first N pairs of drawings of each kind for tuning. They are not tested."),
    ] = 6,
    steps: Annotated[int, typer.Option(min=1, help="Number of steps of the inversion and of the edit.")] = 50,
    grid: Annotated[
        bool, typer.Option("--grid", help="Choose the strength and guidance scales of each method on the tuning edits.")
    ] = False,
    edict: Scales = (0.8, 3.0, 3.0),
    ddim: Scales = (0.8, 3.0, 3.0),
    control: Scales = (0.8, 3.0, 3.0),
    sdedit: Scales = (0.8, 3.0, 3.0),
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", dir_okay=False, help="Write a contact sheet with the edits of every method."),
    ] = None,
    columns: Annotated[int, typer.Option(min=1, help="Number of edits of each kind on the contact sheet.")] = 2,
    batch: Batch = 16,
    workers: Annotated[int, typer.Option(min=1, help="Number of worker processes, with one thread each.")] = 1,
    output: Output = None,
) -> None:
    """Measure edits by the default model against their ground truth, a shipped image.

    The methods are EDICT, DDIM inversion in two conventions (--ddim sets both), EDICT with attention control, and
    SDEdit. The tables have the distance to the truth in the whole image, and outside the region that should change.
    """
    from jobs.evaluation import edit_tables
    from jobs.evaluation import edits as evaluation
    from jobs.evaluation.methods import Setting
    from jobs.evaluation.record import save, table
    from jobs.evaluation.sheet import draw

    scales = {"EDICT": edict, "DDIM": ddim, "DDIM Euler": ddim, "control": control, "SDEdit": sdedit}
    with exit_on_error(RESTART):
        if grid and not tune:
            raise EvaluationError("--grid needs tuning edits, and --tune is 0. Give --tune 1 or more")
        model = _prepared_model(output, threads=1)
        settings = None if grid else {name: Setting(*values) for name, values in scales.items()}
        _check_settings(model, settings, steps)
        tuning, test = _reference_edits(tune, per_kind)
        options = evaluation.RunOptions(steps, batch, workers)
        results = evaluation.measure(model, tuning, test, settings, options)
        _print_settings(results, chosen=grid)
        print("\n" + table(edit_tables.HEAD, [edit_tables.line(row) for row in results.rows]))
        print("\n" + table(edit_tables.OUTSIDE_HEAD, [edit_tables.outside_line(row) for row in results.rows]))
        if sheet is not None:
            draw(test, results.images, columns).save(sheet)
            print(f"\ncontact sheet: {sheet}")
        if output is not None:
            arguments = {
                "batch": batch,
                "workers": workers,
                "per_kind": per_kind,
                "tune": tune,
                "steps": steps,
                "grid": grid,
                **{name.lower(): setting for name, setting in scales.items()},
                "columns": columns,
            }
            used = {name: setting._asdict() for name, setting in results.settings.items()}
            save(output, arguments, settings=used, grids=results.grids, rows=results.rows)
            print(f"\nresults: {output}")


@app.command()
def pie_bench(
    edited: Annotated[
        Path,
        typer.Argument(
            metavar="EDITED", help="The edited images: the folder of one edit of `edict export --format pie_bench`."
        ),
    ],
    mapping: Annotated[Path, typer.Argument(metavar="MAPPING", help="PIE-Bench's mapping_file.json.")],
    images: Annotated[
        Path, typer.Option(metavar="FOLDER", help="PIE-Bench's annotation_images, which has the source images.")
    ],
    clip: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The model openai/clip-vit-large-patch14, for the CLIP similarity."),
    ] = None,
    dino: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The model facebook/dino-vitb8, for the structure distance.")
    ] = None,
    lpips: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The weights of torchvision's SqueezeNet 1.1, or their folder, for LPIPS."),
    ] = None,
    output: Output = None,
) -> None:
    """Measure PIE-Bench's metrics of edited images, by type of edit.

    A metric that needs a network is left out if the network is not given.
    """
    import torch

    from jobs.evaluation import metrics as evaluation
    from jobs.evaluation.lpips import load_lpips, weights_file
    from jobs.evaluation.networks import digest, load_clip_similarity, load_structure_distance
    from jobs.evaluation.record import save, table

    with exit_on_error(RESTART):
        try:
            import torchmetrics  # noqa: F401
        except ImportError as error:
            raise EvaluationError(
                "`edict eval pie-bench` needs torchmetrics. Install it: pip install 'edict-pipeline[eval]'"
            ) from error
        _make_folder(output)
        entries = evaluation.read_mapping(mapping)
        found = evaluation.find_images(edited, entries)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        networks = evaluation.Networks(
            structure_distance=None if dino is None else load_structure_distance(dino, device),
            lpips=None if lpips is None else load_lpips(lpips, device),
            clip_similarity=None if clip is None else load_clip_similarity(clip, device),
        )
        weights = {"dino": dino, "lpips": None if lpips is None else weights_file(lpips), "clip": clip}
        _print_networks(weights)
        measured, resized = evaluation.evaluate(entries, found, images, networks)
        missing = [entry.key for entry in entries if entry.key not in found]
        rows = evaluation.means(entries, measured)
        print("\n" + table(evaluation.head(rows[0]), [evaluation.line(row) for row in rows]))
        print(f"\n{len(measured)} of {len(entries)} entries have an edited image")
        if missing:
            print(f"entries without one: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}")
        if resized:
            print(f"not comparable with published figures: {resized} images were resized to 512 x 512 pixels")
        if output is not None:
            arguments = {"pictures": str(edited), "mapping": str(mapping), "images": str(images)}
            save(
                output,
                arguments,
                weights={name: digest(path) for name, path in weights.items() if path is not None},
                packages=("torchmetrics", "transformers"),
                entries=len(entries),
                missing=missing,
                resized=resized,
                rows=rows,
                pictures=measured,
            )
            print(f"results: {output}")


def _prepared_model(output: Path | None, threads: int | None) -> "EDICT":
    """Return the default model on this many threads, after making the folder of the results.

    The folder is made first, because a measurement takes hours.
    """
    import torch

    from jobs.evaluation.model import load_default_model

    _make_folder(output)
    if threads is not None:
        torch.set_num_threads(threads)
    return load_default_model()


def _check_settings(model: "EDICT", settings: "Mapping[str, Setting] | None", steps: int) -> None:
    """Check that every setting can be executed, before anything is computed. Without settings, check the grid.

    Raises:
        EvaluationError: A strength is invalid, a schedule is impossible, or attention control has no effect.
    """
    from jobs.evaluation.edits import GRID
    from jobs.evaluation.methods import check_control

    strengths = {setting.strength for setting in (GRID if settings is None else settings.values())}
    _check_steps(model, strengths, [steps])
    for strength in strengths if settings is None else [settings["control"].strength]:
        check_control(model, steps, strength)


def _check_steps(model: "EDICT", strengths: Iterable[float], steps: Sequence[int]) -> None:
    """Check that the model has a schedule for these strengths and numbers of steps.

    Raises:
        EvaluationError: A strength is invalid, or a schedule is impossible.
    """
    from edict.samplers import sampling

    for strength in sorted(strengths):
        if not 0 < strength <= 1:
            raise EvaluationError(f"strength is {strength:g}. Give more than 0 and at most 1")
        for number in steps:
            try:
                model.backend.schedule(sampling(steps=number, strength=strength))
            except ValueError as error:
                raise EvaluationError(f"--steps: {error}") from error


def _reference_edits(tune: int, per_kind: int | None) -> "tuple[list[ReferenceEdit], list[ReferenceEdit]]":
    """Return the tuning edits and the test edits. Raises EvaluationError if there is nothing to test."""
    from jobs.demo import KINDS
    from jobs.evaluation.truth import reference_edits, split

    tuning, rest = split(reference_edits(), tune)
    test = [edit for kind in KINDS for edit in [edit for edit in rest if edit.kind == kind][:per_kind]]
    if not test:
        raise EvaluationError(f"--tune {tune} leaves no edits to test. Give a smaller number")
    return tuning, test


def _print_settings(results: "EditResults", *, chosen: bool) -> None:
    for name, setting in results.settings.items():
        print(
            f"{name}: strength {setting.strength:g}, guidance scale {setting.inverted_at:g} for the inversion and "
            f"{setting.edited_at:g} for the edit ({'chosen on the tuning edits' if chosen else 'as given'})"
        )


def _print_networks(weights: Mapping[str, Path | None]) -> None:
    """Print the metrics that are left out because their network is not given, and networks of other sizes."""
    from jobs.evaluation.metrics import NETWORKS
    from jobs.evaluation.networks import other_than_published

    for name, path in weights.items():
        metrics, hint = NETWORKS[name]
        if path is None:
            print(f"left out: {', '.join(metrics)}. To include it, {hint}")
        elif name != "lpips" and (size := other_than_published(name, path)) is not None:
            print(f"not comparable with published figures: the network of --{name} has {size}")


def _make_folder(output: Path | None) -> None:
    """Make the folder of the results. Raises EvaluationError if it cannot be made."""
    if output is not None:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EvaluationError(
                f"--output {output}: the folder cannot be made ({error.strerror}). Give a file in another folder"
            ) from error
