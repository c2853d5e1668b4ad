"""Figures: drawn by matplotlib, which is imported when the first one is, and written whole."""

from pathlib import Path
from typing import TYPE_CHECKING

from sima_core.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches, without a window to show it in."""
    from matplotlib.figure import Figure  # half a second, which only those who draw should wait

    return Figure(figsize=(width, height), layout="constrained")


def save_png(figure: "Figure", file: Path, dpi: int) -> None:
    """Write a figure, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(file) as png:
        figure.savefig(png, format="png", dpi=dpi)
