"""The parts that the plots of the documentation share."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from PIL import Image

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"


def set_ticks(axis: Axis, ticks: Sequence[float]) -> None:
    """Show these ticks as plain numbers, also on a logarithmic axis."""
    axis.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def save(figure: Figure, name: str | Path, dpi: int) -> None:
    """Write docs/pictures/NAME.png, or NAME.png if it is absolute, in 256 colours, which makes it a third as large."""
    buffer = BytesIO()
    figure.savefig(buffer, dpi=dpi)
    Image.open(buffer).convert("RGB").quantize(256).save(FOLDER / f"{name}.png", optimize=True)
    plt.close(figure)
