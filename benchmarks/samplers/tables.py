"""The tables of docs/comparison.md, from the results of the measurements."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

from benchmarks.harness import show
from jobs.evaluation.bootstrap import format_interval

Row = dict[str, Any]


def by_steps(title: str, rows: Sequence[Row], keys: Sequence[str], cell: Callable[[Row], object]) -> None:
    """Print a line for each value of the keys, and a column for each number of steps."""
    lines: dict[tuple[object, ...], Row] = {}
    for row in rows:
        line = lines.setdefault(tuple(row[key] for key in keys), {key: str(row[key]) for key in keys})
        line[f"{row['steps']} steps"] = str(cell(row))
    names = [*keys, *dict.fromkeys(f"{row['steps']} steps" for row in sorted(rows, key=lambda row: row["steps"]))]
    show(lines.values(), {name.replace("_", " "): name for name in names}, title)


def mean(key: str) -> Callable[[Row], str]:
    """Return the cell of a mean with its interval."""
    return lambda row: format_interval(row[key])


def round_trips(found: Row) -> None:
    keys = ("sampler", "guidance_scale", "bits")
    rows = sorted(found["rows"], key=lambda row: (row["guidance_scale"], row["bits"]))
    by_steps("samples that left the lattice", rows, keys, lambda row: row["left_the_lattice"])
    by_steps("integers that differ", rows, keys, lambda row: f"{row['integers_differing']:,} of {row['integers']:,}")
    means = {
        "mse": "error",
        "minus_autoencoder": "error minus the autoencoder's",
        "std": "standard deviation of the noise",
        "drift": "drift",
        "to_ode": "distance to the ODE's noise",
        "to_fine": "distance to the noise on a fine lattice",
    }
    for key, title in means.items():
        by_steps(title, [row for row in rows if key in row], keys, mean(key))
    show(found["ode"], {"timestep": "timestep", "half the steps": mean("half")}, "distance to the ODE with all steps")


def edits(found: Row) -> None:
    settings = {f"{one['strength']:g}, {one['guidance_scale']:g}": i for i, one in enumerate(found["grids"]["edict"])}
    columns: Row = {text: lambda row, i=i: f"{row['tried'][i]['mse']:.4f}" for text, i in settings.items()}
    grids = [{"sampler": name, "tried": tried} for name, tried in found["grids"].items()]
    show(grids, {"sampler": "sampler", **columns}, "error on the tuning edits, by strength and guidance scale")
    print(f"\nsource {found['source']:.4f}, autoencoder {found['autoencoder']:.4f}")
    for key in ("truth", "minus_edict", "minus_edict_as_many_calls", "outside"):
        by_steps(key.replace("_", " "), [row for row in found["rows"] if key in row], ("sampler",), mean(key))
    for kind in found["rows"][0]["kinds"]:
        by_steps(f"error of {kind}", found["rows"], ("sampler",), partial(error_of, kind))


def error_of(kind: str, row: Row) -> str:
    return f"{row['kinds'][kind]:.4f}"


def generation(found: Row) -> None:
    print(f"\n{found['captions']} captions, {found['references']} references, nearest has: {found['nearest_has']}")
    columns: Row = {"images": "pictures", "steps": "steps", "left the lattice": "left_the_lattice"}
    columns |= {"background": mean("background"), "FID": "fid:.1f", "KID": "kid:.4f"}
    for title, key in (("KID of subsets", "kid_subsets"), ("minus ddim's", "kid_minus_ddim")):
        columns[title] = lambda row, key=key: "{:.4f} ± {:.4f}".format(*row[key]) if key in row else ""
    show(found["floors"] + found["rows"], columns)


def calls_of(direction: str, row: Row) -> str:
    return "{calls} ({rows})".format(**row[direction])


def cost(found: Row) -> None:
    directions = ("inversion", "generation")
    for direction in directions:
        title = f"{direction}, network calls (evaluations)"
        by_steps(title, found["calls"], ("sampler",), partial(calls_of, direction))
    columns: Row = {"sampler": "sampler", "steps": "steps"}
    for direction, (key, title) in product(directions, (("seconds_per_image", "s per image"), ("to_ddim", "to ddim"))):
        columns[f"{direction}, {title}"] = lambda row, direction=direction, key=key: f"{row[direction][key]:.3f}"
    show(found["seconds"], columns)


def obelm(found: Row) -> None:
    columns: Row = {"guidance": "guidance_scale", "steps above 1": "steps_above_1", "largest": "largest_weight:.2f"}
    for name in ("limited", "unlimited"):
        columns[f"{name}, grey levels"] = lambda row, name=name: f"{row['grey_levels'][name]:.1f}"
    for name in found["limit"][0]["truth"]:
        columns[f"error, {name}"] = lambda row, name=name: format_interval(row["truth"][name])
    show(found["limit"], columns)
    columns = {"steps_offset": "steps_offset", "last step": "last_step:.4f", "last weight": "last_weight:.4f"}
    columns |= {"expansion": "expansion:.0f"}
    columns |= {f"{bits} bits": lambda row, bits=bits: f"{row['to_fine'][bits]:.4f}" for bits in ("12", "16")}
    show(found["rounding"], columns)
