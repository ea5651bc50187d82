"""Pictures of a replay: a reliability diagram per estimator, and the front of yield against starvation."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from depo.replay.comparison import SMOOTHER, Comparison
from depo.report.plots import draw_reliability

MARKERS = "osD^v*PX<>hp"


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
    """Effective-group ratio against starvation, one point per estimator (colour) and selector (marker), with
    the intervals over seeds. Up and to the left is better on both. The line joins the points that no other
    beats on both: between those, a replay cannot decide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    colour = {
        name: f"C{i % 10}" for i, name in enumerate(dict.fromkeys(one for one, _ in comparison.censored))
    }
    selectors = dict.fromkeys(selector for _, selector in comparison.censored)
    marker = {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(selectors)}
    points: list[tuple[float, float]] = []
    for (estimator, selector), figures in comparison.censored.items():
        x, y = figures["starvation"], figures["effective_ratio"]
        if math.isnan(x) or math.isnan(y):
            continue
        points.append((x, y))
        axes.errorbar(
            x,
            y,
            xerr=distances(x, figures["intervals"]["starvation"]),
            yerr=distances(y, figures["intervals"]["effective_ratio"]),
            fmt=marker[selector],
            color=colour[estimator],
            elinewidth=0.8,
        )
    best = front(points)
    axes.plot([x for x, _ in best], [y for _, y in best], color="grey", linewidth=1, linestyle=":", zorder=0)
    axes.set(xlabel="starvation (lower is better)", ylabel="effective-group ratio (higher is better)")
    axes.grid(alpha=0.3)
    handles = [Line2D([], [], color=shade, linewidth=4, label=name) for name, shade in colour.items()]
    handles += [
        Line2D([], [], color="black", marker=shape, linestyle="", label=name)
        for name, shape in marker.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize="small")
    FigureCanvasAgg(figure).print_png(path)


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (starvation, ratio) points that none beats on both, from the least starvation to the most."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best


def distances(value: float, interval: list[float] | None) -> list[list[float]] | None:
    """What matplotlib wants of an interval: how far it reaches below and above the value."""
    return None if interval is None else [[max(value - interval[0], 0.0)], [max(interval[1] - value, 0.0)]]
