"""The plots of docs/choosing.md."""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.plots import save, set_ticks
from benchmarks.sweep.edits import STEPS, P
from edict.samplers.base import BITS
from pipeline.store.parts import STATE_LIMIT

STYLE: Any = {
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.92",
    "lines.marker": "o",
    "lines.markersize": 3.5,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
}
MARK: Any = {"color": "0.4", "linewidth": 1, "linestyle": ":", "marker": ""}
PIXEL = (2 / 255) ** 2 / 12  # mean squared error of rounding to 8 bits, on [-1, 1] pixels
Rows = Sequence[dict[str, Any]]


def draw(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Draw every plot."""
    with plt.rc_context(STYLE):
        _noise(rows["noise"])
        _lattice(rows["lattice"])
        _strength(rows["edits"])
        _mixing(rows["edits"])


def _noise(rows: Rows) -> None:
    """Draw the drift, std and largest integer of EDICT by steps at guidance 3, with a line for each p."""
    figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.2))
    rows = [row for row in rows if row["guidance_scale"] == 3]
    ours = [row for row in rows if row["sampler"] == "edict"]
    lines = {f"p {p:g}": [row for row in ours if row["given"] == p] for p in _values(ours, "given")}
    # Up to 50 steps the default is P.
    default = [row for row in ours if row["given"] is None or (row["steps"] <= 50 and row["given"] == P)]
    steps = _values(ours, "steps")
    for axes, measure in zip(panels, ("drift", "std", "log2_largest"), strict=True):
        for (name, line), shade in zip(lines.items(), _shades(len(lines)), strict=True):
            _plot(axes, line, "steps", measure, label=name, color=shade)
        _plot(axes, default, "steps", measure, label="default p", color="C3", linestyle="--")
        axes.set(xscale="log", xlabel="steps")
    ddim = [row for row in rows if row["sampler"] == "ddim"]
    _plot(panels[1], ddim, "steps", "std", label="DDIM", color="0.6")
    panels[0].set(title="drift, rms of x - y", yscale="log")
    panels[1].set(title="std of the noise", yscale="log")
    panels[2].set(title="log2 of the largest integer", ylim=(16, 32))
    panels[2].axhline(STATE_LIMIT.bit_length() - 1, **MARK)
    panels[2].annotate("limit of a part", (10, 31), va="top", fontsize=8, color="0.4")
    for axes in panels:
        set_ticks(axes.xaxis, steps)
    set_ticks(panels[1].yaxis, (0.8, 1, 1.2, 2, 4, 6))
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside right upper")
    save(figure, "noise", dpi=100)


def _lattice(rows: Rows) -> None:
    """Draw bytes and errors by the bits, with a line for each sampler."""
    figure, panels = plt.subplots(1, 4, figsize=(12, 3.1))
    titles = {
        "bytes": "bytes per row, x and y",
        "noise_rms": "noise, rms to 30 bits",
        "picture_mse": "image, mse to unrounded",
        "edit_mse": "edit, mse to 30 bits",
    }
    swept = [row for row in rows if isinstance(row["bits"], int)]
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for sampler in dict.fromkeys(row["sampler"] for row in swept):
            _plot(axes, [row for row in swept if row["sampler"] == sampler], "bits", name, label=sampler)
        axes.set(title=title, xlabel="bits", yscale="linear" if name == "bytes" else "log")
        axes.axvline(BITS, **MARK)
        set_ticks(axes.xaxis, _values(swept, "bits"))
    levels = {row["bits"]: row["bytes"] for row in rows if row not in swept}
    for name, level in levels.items():
        panels[0].axhline(level, **MARK)
        panels[0].annotate(name, (20, level), ha="right", va="bottom", fontsize=8, color="0.4")
    panels[0].set_ylim(0, 8500)
    for axes in panels[2:]:
        axes.axhline(PIXEL, **MARK)
        axes.annotate("rounding of pixels", (4, PIXEL), va="top", fontsize=8, color="0.4")
    panels[1].legend()
    save(figure, "lattice", dpi=100)


def _strength(rows: Rows) -> None:
    """Draw errors by strength, with a line for each guidance scale: of both directions, and of the edit only."""
    figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.3), sharex=True)
    grid = [row for row in rows if (row["steps"], row["p"]) == (STEPS, P)]
    same = [row for row in grid if row["inverted_at"] == row["guidance_scale"]]
    from_one = [row for row in grid if row["inverted_at"] == 1 and row["strength"] in (0.6, 0.8, 1.0)]
    shown = (
        ("to the truth, one guidance for both", same, "truth"),
        ("to the truth, inverted at guidance 1", from_one, "truth"),
        ("outside, one guidance for both", same, "outside"),
    )
    scales = _values(grid, "guidance_scale")
    shades = dict(zip(scales, _shades(len(scales)), strict=True))
    for axes, (title, line, measure) in zip(panels, shown, strict=True):
        for scale, shade in shades.items():
            points = [{**row, measure: row[measure][0]} for row in line if row["guidance_scale"] == scale]
            _plot(axes, points, "strength", measure, label=f"guidance {scale:g}", color=shade)
        axes.set(title=title, xlabel="strength", yscale="log")
        set_ticks(axes.yaxis, (0.1, 0.2, 0.4) if measure == "truth" else (0.01, 0.03, 0.1, 0.3))
    panels[0].set_ylabel("mean squared error")
    panels[0].set_ylim(0.09, 0.6)
    panels[1].set_ylim(0.09, 0.6)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    save(figure, "strength", dpi=100)


def _mixing(rows: Rows) -> None:
    """Draw the distance to the truth by p, and by network evaluations with a line for each number of steps."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for steps, inverted_at, strength in ((20, 1.0, 1.0), (50, 1.0, 1.0), (20, 3.0, 0.8), (50, 3.0, 0.8)):
        setting = {"steps": steps, "inverted_at": inverted_at, "guidance_scale": inverted_at, "strength": strength}
        line = [{**row, "truth": row["truth"][0]} for row in rows if setting.items() <= row.items()]
        _plot(left, line, "p", "truth", label=f"{steps} steps, guidance {inverted_at:g}, strength {strength:g}")
    for shade, steps in enumerate(_values(rows, "steps")):
        for scale, style in ((1.0, "-"), (3.0, ":")):
            setting = {"steps": steps, "p": P, "inverted_at": scale, "guidance_scale": scale}
            line = [
                {"evaluations": sum(row["evaluations"]), "truth": row["truth"][0]}
                for row in rows
                if setting.items() <= row.items() and row["strength"] in (0.6, 0.8, 0.9, 1.0)
            ]
            label = f"{steps} steps, guidance {scale:g}"
            _plot(right, line, "evaluations", "truth", label=label, linestyle=style, color=f"C{shade}")
    left.set(title="by p", xlabel="p", ylabel="mse to the truth", ylim=(0, None))
    right.set(title="by cost, strengths 0.6 to 1", xlabel="network evaluations per image", xscale="log", ylim=(0, None))
    set_ticks(right.xaxis, (25, 50, 100, 200, 400))
    left.legend(fontsize=8)
    right.legend(fontsize=8, ncols=2)
    save(figure, "mixing", dpi=100)


def _plot(axes: Axes, rows: Rows, x: str, y: str, **style: Any) -> None:
    points = sorted((row[x], row[y]) for row in rows if row.get(y) is not None)
    axes.plot([x for x, _ in points], [y for _, y in points], **style)


def _values(rows: Rows, name: str) -> list[Any]:
    return sorted({row[name] for row in rows if row[name] is not None})


def _shades(count: int) -> Iterable[Any]:
    return plt.get_cmap("viridis")([0.9 * i / max(count - 1, 1) for i in range(count)])
