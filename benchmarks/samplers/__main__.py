"""The tables of docs/comparison.md out of benchmarks/results/samplers, and its plots into docs/pictures.

`python -m benchmarks.samplers`. Nothing is measured here.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.record import RESULTS
from edict.checkpoint import locate
from edict.models import describe
from edict.samplers import SAMPLERS, sampling
from jobs.evaluation.edits import interval
from jobs.evaluation.record import table

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
COLOURS = {"edict": "#0072b2", "bdia": "#d55e00", "obelm": "#009e73", "ddim": "#6e6e6e", "ddim_euler": "#cc79a7"}
MARKERS = {"edict": "o", "bdia": "s", "obelm": "^", "ddim": "x", "ddim_euler": "+"}

Row = dict[str, Any]
Interval = tuple[float, float, float]
"""A mean and the ends of its interval."""


def read(name: str) -> dict[str, Any]:
    """A measurement, as `benchmarks.record.save` wrote it."""
    return json.loads((RESULTS / "samplers" / f"{name}.json").read_text())


def across(rows: Sequence[Row], keys: Sequence[str], cell: Callable[[Row], object]) -> str:
    """A line for each value of the keys, a column for each number of steps."""
    counts = sorted({row["steps"] for row in rows})
    lines: dict[tuple[object, ...], dict[int, object]] = {}
    for row in rows:
        lines.setdefault(tuple(row[key] for key in keys), {})[row["steps"]] = cell(row)
    head = [*(key.replace("_", " ") for key in keys), *(f"{steps} steps" for steps in counts)]
    return table(head, [[*of, *(cells.get(steps, "") for steps in counts)] for of, cells in lines.items()])


def show(title: str, shown: str) -> None:
    print(f"\n{title}\n\n{shown}")


def means(what: str) -> Callable[[Row], str]:
    """The cell of a row with a mean and its interval."""
    return lambda row: interval(row[what])


def calls(direction: str) -> Callable[[Row], str]:
    """The cell of a row with calls and, in brackets, evaluations."""
    return lambda row: f"{row[direction]['calls']} ({row[direction]['rows']})"


def panels(count: int) -> tuple[Figure, list[Axes]]:
    figure, axes = plt.subplots(1, count, figsize=(4.6 * count, 3.4), layout="constrained", squeeze=False)
    for one in axes[0]:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="#e5e5e5", linewidth=0.6)
        one.set_axisbelow(True)
    return figure, list(axes[0])


def draw(axes: Axes, by: Mapping[str, Sequence[Row]], at: Callable[[Row], int], of: Callable[[Row], Interval]) -> None:
    """A line for the rows of each sampler, and their intervals, over calls of the network, logarithmic."""
    for name, rows in by.items():
        places = [at(row) for row in rows]
        middles, lows, highs = zip(*map(of, rows), strict=True)
        axes.plot(places, middles, color=COLOURS[name], marker=MARKERS[name], markersize=5, linewidth=1.4, label=name)
        axes.vlines(places, lows, highs, color=COLOURS[name], linewidth=1)
    axes.set_xscale("log", base=2)
    label(axes.xaxis, [at(row) for row in by["ddim"]])


def label(axis: Axis, ticks: Sequence[float]) -> None:
    """Plain numbers on a logarithmic axis."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def grouped(rows: Sequence[Row], key: str) -> dict[Any, list[Row]]:
    """Rows by a field."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def keep(figure: Figure, name: str) -> None:
    file = PICTURES / f"samplers_{name}.png"
    figure.savefig(file, dpi=110)
    print(f"\nwritten to {file}")


def there_and_back(row: Row) -> int:
    """Calls of the network for an edit."""
    settings = sampling(name=row["sampler"], steps=row["steps"], strength=row["strength"])
    sampler, schedule = SAMPLERS[settings.name], describe(locate()).schedule(settings)
    return len(
        sampler.evaluated_steps(schedule, schedule.num_steps, 0)
        + sampler.evaluated_steps(schedule, 0, schedule.num_steps)
    )


def round_trips() -> None:
    found = read("round_trips")
    keys = ("sampler", "guidance_scale", "bits")
    rows = sorted(found["rows"], key=lambda row: (row["guidance_scale"], row["bits"]))
    show("samples that left the lattice", across(rows, keys, itemgetter("left_the_lattice")))
    show(
        f"integers that differ, of {rows[0]['integers']:,}",
        across(rows, keys, lambda row: f"{row['integers_differing']:,}"),
    )
    show("error", across(rows, keys, means("mse")))
    show("error over the autoencoder's", across(rows, keys, means("minus_autoencoder")))
    show("std of the noise", across(rows, keys, means("std")))
    show("drift", across(rows, keys, means("drift")))
    near = [row for row in rows if "to_ode" in row]
    show("distance to the ODE's noise", across(near, ("sampler", "bits"), means("to_ode")))
    coarse = [row for row in rows if "to_fine" in row]
    show("distance to a fine lattice's", across(coarse, ("sampler", "bits"), means("to_fine")))
    print(
        "\nof half the ODE's steps:", *(f"timestep {one['timestep']}: {interval(one['half'])}" for one in found["ode"])
    )

    shown = (
        ("to_ode", "distance to the ODE's noise, std", (0.02, 0.05, 0.1, 0.2, 0.5)),
        ("to_fine", "distance to its own at 20 bits, std", (0.001, 0.003, 0.01, 0.03, 0.1)),
    )
    figure, axes = panels(2)
    for one, (what, title, ticks) in zip(axes, shown, strict=True):
        draw(one, grouped(coarse, "sampler"), itemgetter("calls"), itemgetter(what))
        one.set(xlabel="network calls of the inversion", ylabel=title, yscale="log")
        label(one.yaxis, ticks)
    axes[0].axhline(max(one["half"][0] for one in found["ode"]), color="black", linewidth=1, linestyle=":")
    axes[0].legend(frameon=False)
    keep(figure, "noise")


def edits() -> None:
    found = read("edits")
    tried = found["grids"]
    head = ("sampler", *(f"{one['strength']:g}, {one['guidance_scale']:g}" for one in tried["edict"]))
    show("tuned on", table(head, [[name, *(f"{one['mse']:.4f}" for one in ones)] for name, ones in tried.items()]))
    print(f"\nsource {found['source']:.4f}, autoencoder {found['autoencoder']:.4f}")
    for what in ("truth", "minus_edict", "minus_edict_as_many_calls", "outside"):
        ours = [row for row in found["rows"] if what in row]
        show(what, across(ours, ("sampler",), means(what)))
    for steps, ours in grouped(found["rows"], "steps").items():
        lines = [[row["sampler"], *(f"{mean:.4f}" for mean in row["kinds"].values())] for row in ours]
        show(f"by kind, {steps} steps", table(("sampler", *ours[0]["kinds"]), lines))

    figure, (errors, less) = panels(2)
    draw(errors, grouped(found["rows"], "sampler"), there_and_back, lambda row: (row["truth"][0],) * 3)
    errors.set(xlabel="network calls of an edit", ylabel="error to the truth")
    errors.legend(frameon=False)
    others = [row for row in found["rows"] if "minus_edict" in row]
    draw(less, grouped(others, "sampler"), there_and_back, itemgetter("minus_edict"))
    less.axhline(0, color=COLOURS["edict"], linewidth=1)
    less.set(xlabel="network calls of an edit", ylabel="error minus edict's at the same steps")
    keep(figure, "edits")


def generation() -> None:
    found = read("generation")
    print(f"\n{found['captions']} captions, {found['references']} references, nearest has: {found['nearest_has']}")
    head = ("pictures", "steps", "background", "FID", "KID", "KID of subsets", "less ddim's")
    lines = [
        [row["pictures"], row["steps"] or "", interval(row["background"]), f"{row['fid']:.1f}", f"{row['kid']:.4f}"]
        + ["{:.4f} ± {:.4f}".format(*row[what]) if what in row else "" for what in ("kid_subsets", "kid_minus_ddim")]
        for row in found["floors"] + found["rows"]
    ]
    show("generated", table(head, lines))

    figure, axes = panels(2)
    of: dict[str, Callable[[Row], Interval]] = {
        "KID": lambda row: (row["kid"],) * 3,
        "share with the caption's background": itemgetter("background"),
    }
    for one, (title, value) in zip(axes, of.items(), strict=True):
        draw(one, grouped(found["rows"], "pictures"), itemgetter("calls"), value)
        for floor, style in zip(found["floors"], (":", "--"), strict=True):
            one.axhline(value(floor)[0], color="black", linewidth=1, linestyle=style, label=floor["pictures"])
        one.set(xlabel="network calls of a picture", ylabel=title, ylim=(0, None))
    axes[0].legend(frameon=False)
    keep(figure, "generation")


def cost() -> None:
    found = read("cost")
    directions = ("inversion", "generation")
    for direction in directions:
        cells = across(found["calls"], ("sampler",), calls(direction))
        show(f"{direction}, calls of the network (evaluations)", cells)
    units = ("seconds_per_image", "to_ddim")
    lines = [
        [row["sampler"], row["steps"], *(f"{row[direction][unit]:.3f}" for direction in directions for unit in units)]
        for row in found["seconds"]
    ]
    show("seconds a picture", table(("sampler", "steps", "inversion", "to ddim", "generation", "to ddim"), lines))


if __name__ == "__main__":
    round_trips()
    edits()
    generation()
    cost()
