"""A router's figures for readers: a table for the terminal, Markdown, and the accuracy/cost curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depo.evaluation.plots import new_figure, save
from depo.evaluation.report import DIGITS, Cells, show
from depo.report.provenance import provenance_lines
from depo.report.tables import interval, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Document = Mapping[str, Any]


HEAD = ["questions go to", "τ", "accuracy", "routed to small", "cost saved", "above random"]


KEYS = ("accuracy", "share", "saved", "gain")
"""Of the figures under the last four heads."""


NAMES = {"estimator": "small above τ", "oracle": "oracle, above τ"}


def panels(document: Document) -> dict[str, Mapping[str, Any]]:
    """The mean over benchmarks first, where there are several, then each benchmark."""
    benchmarks = document["benchmarks"]
    return ({"mean": document["mean"]} if len(benchmarks) > 1 else {}) | dict(benchmarks)


def rows_of(one: Mapping[str, Any]) -> list[Cells]:
    """Each model alone, then both routers at each threshold."""
    rows: list[Cells] = [cells("large alone", "", one["large"]), cells("small alone", "", one["small"])]
    for router, points in one["routers"].items():
        rows += [cells(NAMES[router], f"{point['tau']:g}", point) for point in points]
    return rows


def cells(name: str, tau: str, point: Mapping[str, Sequence[float | None]]) -> list[str]:
    return [name, tau, *(with_limits(point[key]) for key in KEYS)]


def with_limits(values: Sequence[float | None]) -> str:
    """With its interval, but for what is so by definition: a large model alone saves nothing."""
    middle, low, high = values
    return interval([middle, None, None] if low == high else values, DIGITS)


def title(document: Document) -> str:
    names = " or ".join(document[side]["shown"] for side in ("small", "large"))
    return f"{names} on {document['suite']}, routed by {document['estimator']['run']}"


def cost_line(document: Document) -> str:
    cost = document["cost"]
    if cost["source"] == "active parameters":
        unit = f"active parameters ({cost['small']:,.0f} and {cost['large']:,.0f})"
    else:
        unit = (
            f"price (a token of the large model's is {cost['ratio']:g} of the small one's, {cost['source']})"
        )
    return f"Cost is completion tokens times {unit}; saved is against asking the large model alone."


def notes(document: Document) -> list[str]:
    estimator, samples = document["estimator"], document["samples"]
    without = f", without {estimator['without']}, which it had in training" if estimator["without"] else ""
    lines = [
        cost_line(document),
        f"Pass rates predicted by estimator {estimator['type']} of {estimator['run']}, "
        f"{estimator['checkpoint']}{without}. Above random: accuracy above that of a router sending the "
        "same share of questions at random.",
        "The oracle knows the pass rates measured on the small model's own samples "
        f"({samples['small']} a problem), by which it is judged too: with few it flatters itself.",
    ]
    lines += [
        f"{name}: {one['left_out']} problems left out; one of the models has no verdict on them."
        for name, one in document["benchmarks"].items()
        if one["left_out"]
    ]
    lines += [
        f"{name}: all questions alike in {', '.join(alike)} at some thresholds: there the interval is "
        "Clopper and Pearson's over questions, resampling equals tells nothing."
        for name, one in document["benchmarks"].items()
        if (alike := alike_somewhere(one))
    ]
    return lines + [f"The two evaluations differ in {line}." for line in document["unlike"]]


def alike_somewhere(one: Mapping[str, Any]) -> list[str]:
    """Figures in which all questions of a benchmark come out alike in some row of its table, by the table's
    names for them."""
    points = [one["small"], one["large"], *(point for some in one["routers"].values() for point in some)]
    alike = {name for point in points for name in point["clopper_pearson"]}
    return [shown for key, shown in zip(KEYS, HEAD[2:], strict=True) if key in alike]


def markdown(document: Document, stem: Path) -> str:
    """The report; the plot is drawn beside ``stem`` (the JSON's path without suffix) as PNG and SVG."""
    lines = [f"# {title(document)}", ""]
    lines += [
        f"95 % intervals from {document['resamples']:,} bootstrap resamples of problems, Clopper and "
        "Pearson's where all questions come out alike; the mean is the plain one over benchmarks.",
        "",
    ]
    for name, one in panels(document).items():
        lines += [f"## {name}", "", *table(HEAD, rows_of(one)), ""]
    png = next(path for path in save(curve_figure(document), stem) if path.suffix == ".png")
    lines += [f"![{png.stem}]({png.name})", "", *(f"- {line}" for line in notes(document)), ""]
    return "\n".join([*lines, *provenance_lines(dict(document)), ""])


def show_route(document: Document) -> None:
    """The terminal's part: the headline table and what a reader has to know."""
    name, one = next(iter(panels(document).items()))
    show(HEAD, rows_of(one), title=f"{title(document)}: {name} [95 %, bootstrap over problems]")
    for line in notes(document):
        print(line)


def curve_figure(document: Document) -> Figure:
    """Accuracy against cost, one panel a benchmark: estimator, oracle and random router over all τ."""
    shown = panels(document)
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(4.2 * columns, 3.4 * rows)
    for place, (name, one) in enumerate(shown.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        draw_curves(axes, one)
        axes.set_title(name, fontsize="small")
        if place == 1:
            axes.legend(fontsize="small")
    return figure


def draw_curves(axes: Axes, one: Mapping[str, Any]) -> None:
    for name, style, colour in (
        ("oracle", "-", "tab:green"),
        ("estimator", "-", "tab:blue"),
        ("random", "--", "grey"),
    ):
        points = np.array([row[1:] for row in one["curves"][name]])
        axes.plot(1 - points[:, 2], points[:, 1], style, color=colour, linewidth=1, label=name)
    for point in one["routers"]["estimator"]:
        spent, accuracy = 1 - point["saved"][0], point["accuracy"][0]
        axes.plot([spent], [accuracy], "o", color="tab:blue", markersize=4)
        axes.annotate(
            f"τ {point['tau']:g}",
            (spent, accuracy),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize="x-small",
        )
    axes.set(xlabel="cost, share of large alone", ylabel="accuracy")
