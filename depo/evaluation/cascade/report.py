"""The figures of a cascade for readers: a report with accuracy against cost, and what a terminal shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from depo.report.document import Bullets, Document, Figure, Number, Paragraph, Section, Table, Text, show
from depo.report.plots import draw_curve, panels
from depo.report.provenance import provenance_blocks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

Result = Mapping[str, Any]

HEAD = ["questions go to", "τ", "accuracy", "sent to small", "cost saved", "above random"]

KEYS = ("accuracy", "share", "saved", "gain")
"""Of the figures under the last four heads."""

NAMES = {"estimator": "small above τ", "oracle": "oracle, above τ"}


def route_report(result: Result) -> Document:
    """What ``depo route`` found."""
    about = (
        f"95 % intervals from {result['resamples']:,} bootstrap resamples of problems, Clopper and "
        "Pearson's where all questions come out alike; the mean is the plain one over benchmarks."
    )
    shown = parts(result)
    return Document(
        title(result),
        [
            Paragraph(about),
            *(Section(name, [table(one)]) for name, one in shown.items()),
            Figure("", "accuracy against cost", partial(draw_panels, shown)),
            Bullets(notes(result)),
            *provenance_blocks(result),
        ],
    )


def show_route(result: Result) -> None:
    """The terminal's part of the report: the headline table and what a reader has to know."""
    name, one = next(iter(parts(result).items()))
    show(table(one, f"{title(result)}: {name} [95 %, bootstrap over problems]"), Bullets(notes(result)))


def parts(result: Result) -> dict[str, Mapping[str, Any]]:
    """The mean over benchmarks first, where there are several, then each benchmark."""
    benchmarks = result["benchmarks"]
    return ({"mean": result["mean"]} if len(benchmarks) > 1 else {}) | dict(benchmarks)


def table(one: Mapping[str, Any], caption: str = "") -> Table:
    """Each model alone, then estimator and oracle at each threshold."""
    rows = [row("large alone", "", one["large"]), row("small alone", "", one["small"])]
    for router, points in one["routers"].items():
        rows += [row(NAMES[router], f"{point['tau']:g}", point) for point in points]
    return Table(HEAD, rows, caption)


def row(name: str, tau: str, point: Mapping[str, Sequence[float | None]]) -> list[Text]:
    """With intervals, but for what is so by definition: a large model alone saves nothing."""
    figures = [point[key] for key in KEYS]
    return [name, tau, *(Number(one[0]) if one[1] == one[2] else Number.of(one) for one in figures)]


def title(result: Result) -> str:
    names = " or ".join(result[side]["shown"] for side in ("small", "large"))
    return f"{names} on {result['suite']}, decided by {result['estimator']['run']}"


def cost_line(result: Result) -> str:
    cost = result["cost"]
    if cost["source"] == "active parameters":
        unit = f"active parameters ({cost['small']:,.0f} and {cost['large']:,.0f})"
    else:
        unit = (
            f"price (a token of the large model's is {cost['ratio']:g} of the small one's, {cost['source']})"
        )
    return f"Cost is completion tokens times {unit}; saved is against asking the large model alone."


def notes(result: Result) -> list[str]:
    estimator, samples = result["estimator"], result["samples"]
    without = f", without {estimator['without']}, which it had in training" if estimator["without"] else ""
    lines = [
        cost_line(result),
        f"Pass rates predicted by estimator {estimator['type']} of {estimator['run']}, "
        f"{estimator['checkpoint']}{without}. Above random: accuracy above that of a cascade that "
        "sends the same share of questions at random.",
        "The oracle knows the pass rates measured on the small model's own samples "
        f"({samples['small']} a problem), by which it is judged too: with few of them it looks too good.",
    ]
    lines += [
        f"{name}: {one['left_out']} problems left out; one of the models has no verdict on them."
        for name, one in result["benchmarks"].items()
        if one["left_out"]
    ]
    lines += [
        f"{name}: all questions alike in {', '.join(alike)} at some thresholds: there the interval is "
        "Clopper and Pearson's over questions, resampling equal values tells nothing."
        for name, one in result["benchmarks"].items()
        if (alike := alike_somewhere(one))
    ]
    return lines + [f"The two evaluations differ in {line}." for line in result["unlike"]]


def alike_somewhere(one: Mapping[str, Any]) -> list[str]:
    """Figures in which all questions of a benchmark come out alike in some row of its table, by the table's
    names for them."""
    points = [one["small"], one["large"], *(point for some in one["routers"].values() for point in some)]
    alike = {name for point in points for name in point["clopper_pearson"]}
    return [shown for key, shown in zip(KEYS, HEAD[2:], strict=True) if key in alike]


def draw_panels(shown: Mapping[str, Mapping[str, Any]]) -> Drawing:
    """Accuracy against cost, one panel a benchmark: estimator, oracle and a random choice over all τ."""
    figure, places = panels(list(shown), 4.2, 3.4)
    for axes, one in zip(places, shown.values(), strict=True):
        draw_cascade(axes, one)
    places[0].legend(fontsize="small")
    return figure


def draw_cascade(axes: Axes, one: Mapping[str, Any]) -> None:
    for name, style, colour in (
        ("oracle", "-", "tab:green"),
        ("estimator", "-", "tab:blue"),
        ("random", "--", "grey"),
    ):
        points = np.array([row[1:] for row in one["curves"][name]])
        draw_curve(axes, 1 - points[:, 2], points[:, 1], colour=colour, label=name, style=style, width=1)
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
