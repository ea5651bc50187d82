"""A replay for readers: the JSON, tables with intervals for the terminal, and pictures.

JSON: {"trace": …, "settings": …, "estimators": {NAME: {"full": …, "censored": …}}}. NAME is the estimator as
it was written on the command line; with several selectors ESTIMATOR+SELECTOR, each with the estimator's full
feedback again. Figures that are undefined are null.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depo.replay.comparison import SMOOTHER, Comparison
from depo.replay.trace import Trace
from depo.report.calibration import STRATA
from depo.report.document import Number, Table, Text
from depo.report.plots import new_figure, reliability_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

# ---------------------------------------------------------------- JSON


def replay_result(
    trace: Trace, comparison: Comparison, selectors: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON value. ``trace`` is what was graded; the smoother, a property of the trace, stands there."""
    return clean(
        {
            "trace": {
                "source": trace.source,
                "kind": trace.kind,
                "prompts": int(trace.graded_NT.any(axis=1).sum()),
                "steps": int(trace.trials_NT.shape[1]),
                "graded": int(trace.graded_NT.sum()),
                "notes": list(trace.notes),
                "smoother": comparison.reference,
            },
            "settings": dict(settings),
            "estimators": {
                label if len(selectors) == 1 else f"{label}+{selector}": {
                    "full": {**figures, "differences": against(comparison, label)},
                    "censored": comparison.censored.get((label, selector)),
                }
                for label, figures in comparison.full.items()
                for selector in selectors
            },
        }
    )


def against(comparison: Comparison, label: str) -> dict[str, Any]:
    """This estimator minus each other one, and the smoother."""
    found: dict[str, Any] = {}
    for pair in comparison.differences:
        values = {name: pair[name] for name in ("auroc", "auroc_interval", "brier", "brier_interval")}
        if pair["estimator"] == label:
            found[pair["minus"]] = values
        elif pair["minus"] == label:
            found[pair["estimator"]] = {name: negative(value) for name, value in values.items()}
    return found


def negative(value: float | list[float] | None) -> float | list[float] | None:
    if isinstance(value, list):
        return [0.0 - value[1], 0.0 - value[0]]
    return None if value is None else 0.0 - value


def clean(value: Any) -> Any:
    """The same with null for numbers that are not finite: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: clean(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [clean(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------- tables


FULL = (
    ("all-wrong", "auroc_all_wrong"),
    ("all-right", "auroc_all_right"),
    ("AP", "average_precision"),
    ("Brier", "brier"),
    ("skill", "brier_skill"),
    ("ECE", "ece"),
    ("Spearman", "spearman"),
    ("false rej.", "false_reject_rate"),
)

CENSORED = (
    ("never seen", "never_visited"),
    ("audit AUROC", "audit_auroc"),
    ("audit skill", "audit_brier_skill"),
)


def tables(comparison: Comparison) -> list[Table]:
    """Every table that has something to say."""
    found = [full_table(comparison), strata_table(comparison), difference_table(comparison)]
    if comparison.censored:
        found.append(censored_table(comparison))
    return [table for table in found if table.rows]


def full_table(comparison: Comparison) -> Table:
    rows: list[list[Text]] = [
        [
            label,
            with_interval(figures, "auroc"),
            *(Number(figures[key], ".4f") for _, key in FULL),
            milliseconds(figures.get("estimator_seconds_per_step")),
        ]
        for label, figures in with_reference(comparison).items()
    ]
    head = ["estimator", "AUROC", *(title for title, _ in FULL), "ms/step"]
    return Table(head, rows, "Full feedback; AUROC of zero variance [95 %, bootstrap over prompts]")


def strata_table(comparison: Comparison) -> Table:
    """AUROC and ECE by visits so far; empty when everything is in one stratum."""
    labels = [
        name for name, _, _ in STRATA if any(name in one["by_visits"] for one in comparison.full.values())
    ]
    rows: list[list[Text]] = []
    for label, figures in with_reference(comparison).items():
        strata = [figures["by_visits"].get(name, {}) for name in labels]
        pairs = [[Number(one.get(key), ".4f") for key in ("auroc", "ece")] for one in strata]
        rows.append([label, *(f"{auroc} / {ece}" for auroc, ece in pairs)])
    return Table(["estimator", *labels], rows if len(labels) > 1 else [], "AUROC / ECE by visits so far")


def difference_table(comparison: Comparison) -> Table:
    """Each against the first estimator; the JSON file has all pairs."""
    first = next(iter(comparison.full))
    rows: list[list[Text]] = []
    for label in with_reference(comparison):
        if label != first:
            pair = against(comparison, label)[first]
            limits = {name: pair[f"{name}_interval"] or (None, None) for name in ("auroc", "brier")}
            rows.append([label, *(Number(pair[name], "+.4f", *limits[name]) for name in limits)])
    return Table(["estimator", "AUROC", "Brier"], rows, f"Minus {first} [95 %, paired by prompt]")


def censored_table(comparison: Comparison) -> Table:
    some = next(iter(comparison.censored.values()))
    rows: list[list[Text]] = [
        [
            estimator,
            selector,
            with_interval(figures, "effective_ratio"),
            with_interval(figures, "starvation"),
            *(Number(figures[key], ".4f") for _, key in CENSORED),
            "/".join(f"{figures[f'since_visit_p{percent}']:.0f}" for percent in (50, 90, 99)),
            milliseconds(figures["estimator_seconds_per_step"]),
        ]
        for (estimator, selector), figures in comparison.censored.items()
    ]
    head = ["estimator", "selector", "effective ratio", "starvation", *(title for title, _ in CENSORED)]
    return Table(
        [*head, "since visit p50/p90/p99", "ms/step"],
        rows,
        f"Censored feedback: {some['picks_per_step']} picks a step, {some['seeds']} seeds [95 % over seeds]",
    )


def with_reference(comparison: Comparison) -> dict[str, dict[str, Any]]:
    extra = {} if comparison.reference is None else {SMOOTHER: comparison.reference}
    return {**comparison.full, **extra}


def with_interval(figures: Mapping[str, Any], name: str) -> Number:
    return Number(figures[name], ".4f", *(figures["intervals"].get(name) or (None, None)))


def milliseconds(seconds: float | None) -> Number:
    return Number(None if seconds is None else 1000 * seconds, ".1f")


# ---------------------------------------------------------------- pictures


MARKERS = "osD^v*PX<>hp"


def draw(comparison: Comparison, directory: Path) -> list[Path]:
    """Write ``reliability_NAME.png`` for each estimator and, where selectors were replayed, ``front.png``;
    returns what was written."""
    written: list[Path] = []
    for label, figures in with_reference(comparison).items():
        stem = f"reliability_{re.sub(r'[^A-Za-z0-9.+-]+', '_', label).strip('_')}"
        path, number = directory / f"{stem}.png", 1
        while path in written:  # two labels may come out alike in a file name
            number += 1
            path = directory / f"{stem}-{number}.png"
        save(reliability_figure(figures["reliability"], label), path)
        written.append(path)
    if comparison.censored:
        written.append(directory / "front.png")
        save(front_figure(comparison), written[-1])
    return written


def front_figure(comparison: Comparison) -> Drawing:
    """Effective-group ratio against starvation, one point per estimator (colour) and selector (marker), with
    the intervals over seeds. Up and to the left is better on both. The line joins the points that no other
    beats on both: between those, a replay cannot decide."""
    from matplotlib.lines import Line2D

    figure = new_figure(9, 6)
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
    return figure


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
