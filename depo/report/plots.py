"""Pictures: one look for all of them. Builders give a matplotlib figure, `save` writes it.

matplotlib is imported where it draws: nothing else needs it, and it takes a while to start. Figures are made
without pyplot, so no display and no global state is involved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depo.files import file_aside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")

DPI = 120


def new_figure(width: float, height: float) -> Figure:
    """``width`` and ``height`` in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def panels(titles: Sequence[str], width: float, height: float) -> tuple[Figure, list[Axes]]:
    """One panel of ``width`` x ``height`` inches a title, at most three in a row."""
    columns = min(3, len(titles))
    rows = -(-len(titles) // columns)
    figure = new_figure(width * columns, height * rows)
    axes = [figure.add_subplot(rows, columns, place) for place in range(1, len(titles) + 1)]
    for one, title in zip(axes, titles, strict=True):
        one.set_title(title, fontsize="small")
    return figure, axes


def save(figure: Figure, *paths: Path) -> None:
    """Write the figure to each path, in the format that its suffix names. The same figure gives the same
    file: no date in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    for path in paths:
        with file_aside(path) as aside:
            kind = path.suffix.removeprefix(".")
            figure.savefig(aside, format=kind, metadata={"Date": None} if kind == "svg" else None)


def draw_curve(
    axes: Axes,
    x_K: np.ndarray,
    middle_K: np.ndarray,
    band_K: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    colour: str,
    label: str | None = None,
    style: str = "-",
    width: float = 1.5,
) -> None:
    """A line of K points, with the band between its lower and its upper limits (each (K,))."""
    axes.plot(x_K, middle_K, style, color=colour, linewidth=width, label=label)
    if band_K is not None:
        axes.fill_between(x_K, *band_K, color=colour, alpha=0.15, linewidth=0)


def reliability_figure(
    rows: Sequence[Mapping[str, float]],
    title: str,
    counted: str = "groups",
    predicted: str = "predicted probability of an informative group",
    observed: str = "share that was informative",
) -> Figure:
    """Predicted against observed, bin by bin: rows as `depo.report.calibration.reliability` gives them.
    Points grow with what is ``counted`` in the bin. ``predicted`` and ``observed`` label the axes."""
    figure = new_figure(4.5, 4.5)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    if rows:
        most = max(row["groups"] for row in rows)
        x_B, y_B = [row["predicted"] for row in rows], [row["observed"] for row in rows]
        axes.plot(x_B, y_B, color="tab:blue", linewidth=1)
        axes.scatter(x_B, y_B, s=[60 * row["groups"] / most + 4 for row in rows], color="tab:blue")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=predicted, ylabel=observed)
    total = sum(int(row["groups"]) for row in rows)
    axes.set_title(f"{title}\n{total:,} {counted}", fontsize="medium")
    return figure
