"""Pictures of an evaluation, each as PNG and SVG. matplotlib is imported where it draws."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")


def draw(document: Mapping[str, Any], stem: Path) -> list[Path]:
    """Write STEM_coverage, STEM_length and, where an estimator was asked, STEM_reliability; returns them."""
    benchmarks = document["benchmarks"]
    written: list[Path] = []
    if any(one["coverage"] is not None for one in benchmarks.values()):
        written += save(coverage_figure(benchmarks), stem.with_name(f"{stem.name}_coverage"))
    written += save(length_figure(benchmarks), stem.with_name(f"{stem.name}_length"))
    estimator = document["estimator"]
    if estimator is not None and estimator.get("bins"):
        written += save(reliability_figure(estimator), stem.with_name(f"{stem.name}_reliability"))
    return written


def save(figure: Figure, stem: Path) -> list[Path]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    paths = [stem.with_name(stem.name + suffix) for suffix in FORMATS]
    for path in paths:
        # Without a date, so that the same figures give the same file.
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def coverage_figure(benchmarks: Mapping[str, Any]) -> Figure:
    """Coverage against k with its band; the fitted law goes on, dashed, to where it was extrapolated."""
    figure = new_figure(6.5, 4.5)
    axes = figure.add_subplot()
    for place, (name, one) in enumerate(benchmarks.items()):
        curve = one["coverage"]
        if curve is None:
            continue
        colour = f"C{place % 10}"
        k_K, middle_K, low_K, high_K = (
            np.array(column, dtype=float) for column in zip(*curve["curve"], strict=True)
        )
        axes.plot(k_K, middle_K, color=colour, marker=".", label=name)
        axes.fill_between(k_K, low_K, high_K, color=colour, alpha=0.15, linewidth=0)
        if curve["fit"] is not None and curve["extrapolated"]:
            far_K = np.geomspace(1, max(row[0] for row in curve["extrapolated"]), 100)
            law_K = np.exp(-curve["fit"]["a"] * far_K ** -curve["fit"]["b"])
            axes.plot(far_K, law_K, color=colour, linestyle="--", linewidth=1)
            for k, middle, low, high in curve["extrapolated"]:
                if low is not None and high is not None:
                    axes.plot([k, k], [low, high], color=colour, linewidth=1)
                axes.plot([k], [middle], color=colour, marker="o", fillstyle="none")
    axes.set_xscale("log")
    axes.set(xlabel="samples k", ylabel="coverage (pass@k)", ylim=(-0.02, 1.02))
    axes.legend(fontsize="small")
    return figure


def length_figure(benchmarks: Mapping[str, Any]) -> Figure:
    """Histograms of completion length, right and wrong ones, one panel a benchmark."""
    columns = min(3, len(benchmarks))
    rows = -(-len(benchmarks) // columns)
    figure = new_figure(4 * columns, 2.6 * rows)
    for place, (name, one) in enumerate(benchmarks.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        tokens = one["tokens"]
        if tokens:
            axes.stairs(
                tokens["right"], tokens["edges"], color="tab:green", fill=True, alpha=0.5, label="right"
            )
            axes.stairs(tokens["wrong"], tokens["edges"], color="tab:red", label="wrong")
        axes.set_title(name, fontsize="small")
        axes.set(xlabel="tokens", ylabel="completions")
        if place == 1:
            axes.legend(fontsize="small")
    return figure


def reliability_figure(estimator: Mapping[str, Any]) -> Figure:
    """Predicted against measured pass rate, bin by bin; points grow with the problems in the bin."""
    figure = new_figure(4.5, 4.5)
    axes = figure.add_subplot()
    bins = estimator["bins"]
    most = max(row["groups"] for row in bins)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    predicted, observed = [row["predicted"] for row in bins], [row["observed"] for row in bins]
    axes.plot(predicted, observed, color="tab:blue", linewidth=1)
    axes.scatter(predicted, observed, s=[60 * row["groups"] / most + 4 for row in bins], color="tab:blue")
    axes.set(
        xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="predicted pass rate", ylabel="measured pass rate"
    )
    axes.set_title(f"estimator {estimator['type']}: {estimator['problems']:,} problems", fontsize="medium")
    return figure
