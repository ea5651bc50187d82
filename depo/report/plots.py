"""A reliability diagram: predicted against observed share of informative groups, bin by bin.

matplotlib is imported where it draws: nothing else needs it, and it takes a while to start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def draw_reliability(rows: Sequence[Mapping[str, float]], title: str, path: Path) -> None:
    """Write a PNG of the rows that ``depo.report.calibration.reliability`` gives; points grow with the number
    of groups in the bin."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="calibrated")
    if rows:
        most = max(row["groups"] for row in rows)
        predicted, observed = [row["predicted"] for row in rows], [row["observed"] for row in rows]
        axes.plot(predicted, observed, color="tab:blue", linewidth=1)
        axes.scatter(predicted, observed, s=[60 * row["groups"] / most + 4 for row in rows], color="tab:blue")
    groups = sum(int(row["groups"]) for row in rows)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), title=f"{title}\n{groups:,} groups")
    axes.set(xlabel="predicted probability of an informative group", ylabel="share that was informative")
    FigureCanvasAgg(figure).print_png(path)
