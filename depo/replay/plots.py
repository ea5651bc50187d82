"""Pictures of a replay: a reliability diagram per estimator, and the front of yield against starvation."""

from __future__ import annotations

import math
import re
from pathlib import Path

from depo.reliability_plot import draw_reliability
from depo.replay.comparison import SMOOTHER, Comparison


def draw(comparison: Comparison, directory: Path) -> list[Path]:
    """Write ``reliability_NAME.png`` for each estimator and, where selectors were replayed, ``front.png``;
    returns what was written."""
    directory.mkdir(parents=True, exist_ok=True)
    full = dict(comparison.full)
    if comparison.reference is not None:
        full[SMOOTHER] = comparison.reference
    written: list[Path] = []
    for label, figures in full.items():
        path = free_name(
            directory, f"reliability_{re.sub(r'[^A-Za-z0-9.+-]+', '_', label).strip('_')}", written
        )
        draw_reliability(figures["reliability"], label, path)
        written.append(path)
    if comparison.censored:
        written.append(directory / "front.png")
        draw_front(comparison, written[-1])
    return written


def free_name(directory: Path, stem: str, taken: list[Path]) -> Path:
    """``stem``.png, numbered where two labels come out alike in a file name."""
    path, number = directory / f"{stem}.png", 1
    while path in taken:
        number += 1
        path = directory / f"{stem}-{number}.png"
    return path


def draw_front(comparison: Comparison, path: Path) -> None:
    """Effective-group ratio against starvation, one point per estimator and selector, with the intervals over
    seeds. Up and to the left is better on both; between two points on the front, a replay cannot decide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5 + 0.2 * len(comparison.censored)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for (estimator, selector), figures in comparison.censored.items():
        x, y = figures["starvation"], figures["effective_ratio"]
        if math.isnan(x) or math.isnan(y):
            continue
        axes.errorbar(
            x,
            y,
            xerr=half_width(figures["intervals"]["starvation"]),
            yerr=half_width(figures["intervals"]["effective_ratio"]),
            fmt="o",
            capsize=2,
            label=f"{estimator} + {selector}",
        )
    axes.set(xlabel="starvation (lower is better)", ylabel="effective-group ratio (higher is better)")
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.12))
    FigureCanvasAgg(figure).print_png(path)


def half_width(interval: list[float] | None) -> float | None:
    return None if interval is None else (interval[1] - interval[0]) / 2
