"""Print the tables of docs/comparison.md from benchmarks/results/samplers, and draw its plots into docs/pictures.

`python -m benchmarks.samplers` measures nothing.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.harness import RESULTS
from benchmarks.plots import save, set_ticks
from benchmarks.samplers import tables
from edict.checkpoint import locate
from edict.models import describe
from edict.samplers import SAMPLERS, sampling

COLOURS = {"edict": "#0072b2", "bdia": "#d55e00", "obelm": "#009e73", "ddim": "#6e6e6e", "ddim_euler": "#cc79a7"}
MARKERS = {"edict": "o", "bdia": "s", "obelm": "^", "ddim": "x", "ddim_euler": "+"}

Row = dict[str, Any]
Interval = Sequence[float]
"""A mean and the ends of its interval."""


def panels(count: int) -> tuple[Figure, list[Axes]]:
    figure, axes = plt.subplots(1, count, figsize=(4.6 * count, 3.4), layout="constrained", squeeze=False)
    for one in axes[0]:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="#e5e5e5", linewidth=0.6)
        one.set_axisbelow(True)
    return figure, list(axes[0])


def draw(axes: Axes, by: Mapping[str, Sequence[Row]], x: Callable[[Row], int], y: Callable[[Row], Interval]) -> None:
    """Draw a line with intervals for the rows of each sampler, over network calls on a logarithmic axis."""
    for name, rows in by.items():
        calls = [x(row) for row in rows]
        means, lows, highs = zip(*map(y, rows), strict=True)
        axes.plot(calls, means, color=COLOURS[name], marker=MARKERS[name], markersize=5, linewidth=1.4, label=name)
        axes.vlines(calls, lows, highs, color=COLOURS[name], linewidth=1)
    axes.set_xscale("log", base=2)
    set_ticks(axes.xaxis, [x(row) for row in by["ddim"]])


def grouped(rows: Sequence[Row], key: str) -> dict[Any, list[Row]]:
    return {value: [row for row in rows if row[key] == value] for value in dict.fromkeys(row[key] for row in rows)}


def calls_per_edit(row: Row) -> int:
    """Count the network calls of an inversion and an edit."""
    settings = sampling(name=row["sampler"], steps=row["steps"], strength=row["strength"])
    sampler, schedule = SAMPLERS[settings.name], describe(locate()).schedule(settings)
    ends = (schedule.num_steps, 0), (0, schedule.num_steps)
    return sum(len(sampler.evaluated_steps(schedule, *start_and_stop)) for start_and_stop in ends)


def draw_round_trips(found: Row) -> None:
    rows = [row for row in found["rows"] if "to_fine" in row]
    shown = (
        ("to_ode", "distance to the ODE's noise, std", (0.02, 0.05, 0.1, 0.2, 0.5)),
        ("to_fine", "distance to its own at 20 bits, std", (0.001, 0.003, 0.01, 0.03, 0.1)),
    )
    figure, axes = panels(2)
    for one, (key, title, ticks) in zip(axes, shown, strict=True):
        draw(one, grouped(rows, "sampler"), itemgetter("calls"), itemgetter(key))
        one.set(xlabel="network calls of the inversion", ylabel=title, yscale="log")
        set_ticks(one.yaxis, ticks)
    axes[0].axhline(max(one["half"][0] for one in found["ode"]), color="black", linewidth=1, linestyle=":")
    axes[0].legend(frameon=False)
    save(figure, "samplers_noise", dpi=110)


def draw_edits(found: Row) -> None:
    figure, (errors, differences) = panels(2)
    draw(errors, grouped(found["rows"], "sampler"), calls_per_edit, lambda row: (row["truth"][0],) * 3)
    errors.set(xlabel="network calls of an edit", ylabel="error to the truth")
    errors.legend(frameon=False)
    others = [row for row in found["rows"] if "minus_edict" in row]
    draw(differences, grouped(others, "sampler"), calls_per_edit, itemgetter("minus_edict"))
    differences.axhline(0, color=COLOURS["edict"], linewidth=1)
    differences.set(xlabel="network calls of an edit", ylabel="error minus edict's at the same steps")
    save(figure, "samplers_edits", dpi=110)


def draw_generation(found: Row) -> None:
    figure, axes = panels(2)
    shown: dict[str, Callable[[Row], Interval]] = {
        "KID": lambda row: (row["kid"],) * 3,
        "share with the caption's background": itemgetter("background"),
    }
    for one, (title, value) in zip(axes, shown.items(), strict=True):
        draw(one, grouped(found["rows"], "pictures"), itemgetter("calls"), value)
        for floor, style in zip(found["floors"], (":", "--"), strict=True):
            one.axhline(value(floor)[0], color="black", linewidth=1, linestyle=style, label=floor["pictures"])
        one.set(xlabel="network calls per image", ylabel=title, ylim=(0, None))
    axes[0].legend(frameon=False)
    save(figure, "samplers_generation", dpi=110)


if __name__ == "__main__":
    names = ("round_trips", "edits", "generation", "cost", "obelm")
    results = {name: json.loads((RESULTS / "samplers" / f"{name}.json").read_text()) for name in names}
    for name, found in results.items():
        getattr(tables, name)(found)
    draw_round_trips(results["round_trips"])
    draw_edits(results["edits"])
    draw_generation(results["generation"])
