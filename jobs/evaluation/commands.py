"""The commands of `edict eval`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edict.samplers import sampling
from jobs.errors import reported

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edict import EDICT

app = typer.Typer(no_args_is_help=True, help="Measure: the paper's Table 1, edits against their truth, PIE-Bench.")

Output = Annotated[
    Path | None,
    typer.Option(metavar="FILE.json", dir_okay=False, help="Where the results go too, with what they were made with."),
]
Batch = Annotated[int, typer.Option(min=1, help="Pictures a network call.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; what torch takes if not given.")]
Given = Annotated[
    tuple[float, float, float],
    typer.Option(metavar="STRENGTH INVERTED_AT EDITED_AT", help="Without --grid; the latter are guidance scales."),
]
LOST = "nothing is kept; the same command starts again"


@app.command()
def table1(
    input: Annotated[
        str | None,
        typer.Option(metavar="SHARDS", help="WebDataset shards, braces expand; the shipped pictures if not given."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures, the first of the shards.")] = 64,
    steps: Annotated[str, typer.Option(metavar="N,N,...", help="Numbers of steps.")] = "50,100,200",
    batch: Batch = 16,
    threads: Threads = None,
    output: Output = None,
) -> None:
    """The paper's Table 1 on the default model: the error of inversion and regeneration by EDICT and by DDIM."""
    import torch

    from jobs.evaluation import table1 as evaluation
    from jobs.evaluation.record import save, table
    from jobs.evaluation.truth import pictures
    from pipeline.io.shard_list import expand_shards

    try:
        numbers = [int(number) for number in steps.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{steps!r} is no list of numbers, as 50,100,200", param_hint="--steps") from None
    with reported(LOST):
        model = _model(output, threads)
        _check_steps(model, (1.0,), numbers)
        shown = pictures(None if input is None else expand_shards(input), count, model.size)
        rows = evaluation.measure(model, shown, steps=numbers, batch=batch)
        print(table(evaluation.HEAD, [evaluation.line(row) for row in rows]))
        if output is not None:
            arguments = {"batch": batch, "threads": torch.get_num_threads(), "count": count, "steps": numbers}
            save(output, arguments | ({} if input is None else {"input": input}), rows=rows)
            print(f"\nwritten to {output}")


@app.command()
def edits(
    per_kind: Annotated[
        int | None, typer.Option(min=1, help="Edits of every kind to test on, the first; all if not given.")
    ] = None,
    tune: Annotated[
        int, typer.Option(min=0, help="Drawings of every kind to choose on, the first; they are not tested on.")
    ] = 6,
    steps: Annotated[int, typer.Option(min=1, help="Steps of inversion and of generation.")] = 50,
    grid: Annotated[
        bool, typer.Option("--grid", help="Choose each method's strength and guidance on the tuning pairs.")
    ] = False,
    edict: Given = (0.8, 3.0, 3.0),
    ddim: Given = (0.8, 3.0, 3.0),
    control: Given = (0.8, 3.0, 3.0),
    sdedit: Given = (0.8, 3.0, 3.0),
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", dir_okay=False, help="Where a contact sheet of every method's edits goes."),
    ] = None,
    columns: Annotated[int, typer.Option(min=1, help="Edits of every kind on the contact sheet.")] = 2,
    batch: Batch = 16,
    workers: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 1,
    output: Output = None,
) -> None:
    """Edits by the default model against their ground truth, the shipped picture that the edit should lead to.

    EDICT, DDIM inversion in both conventions (--ddim sets both), EDICT with attention control, and SDEdit: the
    distance to the truth, everywhere and in the region that should not change, where source and truth agree.
    """
    from jobs.evaluation import edits as evaluation
    from jobs.evaluation.errors import EvaluationError
    from jobs.evaluation.record import save, table
    from jobs.evaluation.sheet import draw
    from jobs.evaluation.truth import split, truth

    given = {"EDICT": edict, "DDIM": ddim, "DDIM Euler": ddim, "control": control, "SDEdit": sdedit}
    with reported(LOST):
        if grid and not tune:
            raise EvaluationError("--grid has no pairs to choose on; give --tune")
        model = _model(output, 1)
        settings = None if grid else {name: evaluation.Setting(*values) for name, values in given.items()}
        tried = evaluation.GRID if settings is None else settings.values()
        _check_steps(model, {setting.strength for setting in tried}, [steps])
        for strength in {setting.strength for setting in tried} if settings is None else {settings["control"].strength}:
            evaluation.check_control(model, steps, strength)
        tuning, left = split(truth(), tune)
        test = [edit for kind in evaluation.KINDS for edit in [e for e in left if e.kind == kind][:per_kind]]
        if not test:
            raise EvaluationError(f"--tune {tune} leaves no pair to test on; give a smaller one")
        measured = evaluation.measure(model, tuning, test, settings, steps=steps, batch=batch, workers=workers)
        for name, setting in measured.settings.items():
            how = "chosen" if grid else "given"
            scales = f"inverted at guidance {setting.inverted_at:g}, edited at {setting.edited_at:g}"
            print(f"{name}: strength {setting.strength:g}, {scales}, {how}")
        print("\n" + table(evaluation.HEAD, [evaluation.line(row) for row in measured.rows]))
        print("\n" + table(evaluation.OUTSIDE_HEAD, [evaluation.outside_line(row) for row in measured.rows]))
        if sheet is not None:
            draw(test, measured.pictures, columns).save(sheet)
            print(f"\nwritten to {sheet}")
        if output is not None:
            arguments = {
                "batch": batch,
                "workers": workers,
                "per_kind": per_kind,
                "tune": tune,
                "steps": steps,
                "grid": grid,
                **{name.lower(): setting for name, setting in given.items()},
                "columns": columns,
            }
            used = {name: setting._asdict() for name, setting in measured.settings.items()}
            save(output, arguments, settings=used, grids=measured.grids, rows=measured.rows)
            print(f"\nwritten to {output}")


@app.command()
def pie_bench(
    pictures: Annotated[
        Path,
        typer.Argument(metavar="PICTURES", help="One edit's tree, as `edict export --format pie_bench` writes it."),
    ],
    mapping: Annotated[Path, typer.Argument(metavar="MAPPING", help="PIE-Bench's mapping_file.json.")],
    images: Annotated[Path, typer.Option(metavar="FOLDER", help="PIE-Bench's annotation_images, with the sources.")],
    clip: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="openai/clip-vit-large-patch14, for CLIP similarity.")
    ] = None,
    dino: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="facebook/dino-vitb8, for the structure distance.")
    ] = None,
    lpips: Annotated[
        Path | None, typer.Option(metavar="FILE", help="torchvision's SqueezeNet 1.1 or its folder, for LPIPS.")
    ] = None,
    output: Output = None,
) -> None:
    """PIE-Bench's metrics of edited pictures, by the type of the edit. Without a network, its metrics are left out."""
    import torch

    from jobs.evaluation import metrics as evaluation
    from jobs.evaluation.errors import EvaluationError
    from jobs.evaluation.lpips import load_lpips, weights_file
    from jobs.evaluation.networks import digest, load_clip_similarity, load_structure_distance, other_than_published
    from jobs.evaluation.record import save, table

    with reported(LOST):
        try:
            import torchmetrics  # noqa: F401
        except ImportError as error:
            raise EvaluationError("torchmetrics is not here; pip install 'edict-pipeline[eval]'") from error
        _make_folder(output)
        entries = evaluation.read_mapping(mapping)
        found = evaluation.find_pictures(pictures, entries)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        networks = evaluation.Networks(
            structure_distance=None if dino is None else load_structure_distance(dino, device),
            lpips=None if lpips is None else load_lpips(lpips, device),
            clip_similarity=None if clip is None else load_clip_similarity(clip, device),
        )
        given = {"dino": dino, "lpips": None if lpips is None else weights_file(lpips), "clip": clip}
        for name, path in given.items():
            metrics, how = evaluation.NETWORKS[name]
            if path is None:
                print(f"left out: {', '.join(metrics)}: {how}")
            elif name != "lpips" and (size := other_than_published(name, path)) is not None:
                print(f"not comparable with published figures: --{name} is of {size}")
        measured, resized = evaluation.evaluate(entries, found, images, networks)
        missing = [entry.key for entry in entries if entry.key not in found]
        rows = evaluation.means(entries, measured)
        print("\n" + table(evaluation.head(rows[0]), [evaluation.line(row) for row in rows]))
        print(f"\n{len(measured)} of {len(entries)} entries have a picture")
        if missing:
            print(f"without one: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}")
        if resized:
            print(f"not comparable with published figures: {resized} pictures were resized to 512 x 512")
        if output is not None:
            save(
                output,
                {
                    name: str(path)
                    for name, path in {"pictures": pictures, "mapping": mapping, "images": images}.items()
                },
                weights={name: digest(path) for name, path in given.items() if path is not None},
                packages=("torchmetrics", "transformers"),
                entries=len(entries),
                missing=missing,
                resized=resized,
                rows=rows,
                pictures=measured,
            )
            print(f"written to {output}")


def _model(output: Path | None, threads: int | None) -> "EDICT":
    """The default model, on so many threads; the folder of the results is made before the hours they take."""
    import torch
    from transformers.utils import logging

    from edict import EDICT

    _make_folder(output)
    if threads is not None:
        torch.set_num_threads(threads)
    logging.disable_progress_bar()
    model = EDICT.from_pretrained()
    model.set_progress_bar_config(disable=True)
    return model


def _check_steps(model: "EDICT", strengths: "Iterable[float]", steps: list[int]) -> None:
    """Raises EvaluationError for steps that are on no schedule of the model, before anything is computed."""
    from jobs.evaluation.errors import EvaluationError

    for strength in sorted(strengths):
        if not 0 < strength <= 1:
            raise EvaluationError(f"strength {strength:g}: expected more than 0 and at most 1")
        for number in steps:
            try:
                model.backend.schedule(sampling(steps=number, strength=strength))
            except ValueError as error:
                raise EvaluationError(f"--steps: {error}") from error


def _make_folder(output: Path | None) -> None:
    """Raises EvaluationError where the folder of the results cannot be made."""
    from jobs.evaluation.errors import EvaluationError

    if output is not None:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EvaluationError(f"--output {output}: its folder cannot be made ({error.strerror})") from error
