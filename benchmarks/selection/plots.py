"""Accuracy over rollouts, one line an arm: mean over seeds of the smoothed curves, each seed behind it;
dotted, the mean of what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.selection.document import Curves

POINTS = 101


def draw_pool(curves: Curves, arms: Iterable[str], horizon: int, title: str, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    grid = np.linspace(0, horizon, POINTS)
    for number, name in enumerate(arms):
        runs = [by_arm[name] for by_arm in curves.values() if name in by_arm]
        if not runs:
            continue
        smoothed, measured = (
            [np.interp(grid, run.cost_K["rollouts"], values(run)) for run in runs]
            for values in (lambda run: run.smooth_K, lambda run: run.accuracy_K)
        )
        colour = f"C{number % 10}"
        for line in smoothed:
            axes.plot(grid, line, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(grid, np.mean(measured, axis=0), ":", color=colour, linewidth=0.9)
        style = "-" if number < 10 else "--"
        axes.plot(grid, np.mean(smoothed, axis=0), style, color=colour, label=name)
    axes.set(xlabel="rollouts", ylabel="held-out accuracy (exact)", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
