"""Two pictures side by side over training rollouts: held-out accuracy, and the effective-group ratio so far.

matplotlib is imported where it draws. S: steps of a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def draw(document: dict[str, Any], path: Path) -> None:
    """Write a PNG: one colour an arm, one line a seed. Failed runs are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    colour = {arm: f"C{i}" for i, arm in enumerate(document["arms"])}
    labelled: set[str] = set()
    for run in document["runs"]:
        if run["status"] != "done":
            continue
        arm, figures = run["arm"], run["figures"]
        style = {"color": colour[arm], "linewidth": 1.2, "label": None if arm in labelled else arm}
        labelled.add(arm)
        curve = figures["accuracy"]["curve"]
        left.plot([x for x, _ in curve], [y for _, y in curve], marker="o", markersize=3, **style)
        rollouts_S, ratio_S = ratio_so_far(figures["trace"])
        right.plot(rollouts_S, ratio_S, **style)
    left.set(xlabel="training rollouts", ylabel="held-out accuracy")
    left.set_ylim(bottom=0)
    right.set(xlabel="training rollouts", ylabel="effective groups / groups, so far", ylim=(0, 1))
    for axes in (left, right):
        axes.axvline(document["setting"]["horizon"], color="grey", linewidth=0.8, linestyle=":")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    if labelled:
        left.legend(fontsize="small")
    FigureCanvasAgg(figure).print_png(path)


def ratio_so_far(trace: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """(rollouts generated (S,), share of the groups generated so far that were informative (S,))."""
    informative_S = np.cumsum([row["effective_groups"] for row in trace])
    return np.array([row["rollouts"] for row in trace]), informative_S / np.cumsum(
        [row["groups"] for row in trace]
    )
