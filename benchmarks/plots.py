"""The parts that the plots of the documentation share."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axis import Axis
from matplotlib.figure import Figure

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"


def set_ticks(axis: Axis, ticks: Sequence[float]) -> None:
    """Show these ticks as plain numbers, also on a logarithmic axis."""
    axis.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def save(figure: Figure, name: str, dpi: int) -> None:
    """Write docs/pictures/NAME.png."""
    figure.savefig(FOLDER / f"{name}.png", dpi=dpi)
    plt.close(figure)
