"""A replay as JSON: {"trace": …, "settings": …, "estimators": {NAME: {"full": …, "censored": …}}}.

NAME is the estimator as it was written on the command line; with several selectors "ESTIMATOR+SELECTOR", each
with the estimator's full feedback again. Figures that are undefined are null.

A replay on the terminal: tables with intervals, plain text where stdout is no terminal.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from depo.replay.comparison import SMOOTHER, Comparison
from depo.replay.trace import Trace
from depo.report.calibration import STRATA


def document(
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


def write(value: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


PLAIN_WIDTH = 240
"""Columns of a line that goes to a file or a pipe: nobody wraps there."""


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


def show(comparison: Comparison) -> None:
    """Print every table that has something to say."""
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else PLAIN_WIDTH, highlight=False, markup=False, emoji=False)
    found = [full_table(comparison), strata_table(comparison), difference_table(comparison)]
    if comparison.censored:
        found.append(censored_table(comparison))
    for table in found:
        if table.row_count:
            table.box = box.SIMPLE_HEAD if terminal else None
            console.print(table)
            console.print()


def full_table(comparison: Comparison) -> Table:
    table = titled("Full feedback; AUROC of zero variance [95 %, bootstrap over prompts]", "estimator")
    for title in ("AUROC", *(title for title, _ in FULL), "ms/step"):
        table.add_column(title, justify="right")
    for label, figures in with_reference(comparison).items():
        seconds = figures.get("estimator_seconds_per_step")
        table.add_row(
            label,
            with_interval(figures, "auroc"),
            *(number(figures[key]) for _, key in FULL),
            "-" if seconds is None else f"{1000 * seconds:.1f}",
        )
    return table


def strata_table(comparison: Comparison) -> Table:
    """AUROC and ECE by visits so far; empty when everything is in one stratum."""
    labels = [
        name for name, _, _ in STRATA if any(name in one["by_visits"] for one in comparison.full.values())
    ]
    table = titled("AUROC / ECE by visits so far", "estimator")
    if len(labels) < 2:
        return table
    for name in labels:
        table.add_column(name, justify="right")
    for label, figures in with_reference(comparison).items():
        strata = [figures["by_visits"].get(name) for name in labels]
        table.add_row(
            label,
            *("-" if one is None else f"{number(one['auroc'])} / {number(one['ece'])}" for one in strata),
        )
    return table


def difference_table(comparison: Comparison) -> Table:
    """Each against the first estimator; the JSON file has all pairs."""
    first = next(iter(comparison.full))
    table = titled(f"Minus {first} [95 %, paired by prompt]", "estimator")
    table.add_column("AUROC", justify="right")
    table.add_column("Brier", justify="right")
    for label in with_reference(comparison):
        if label == first:
            continue
        pair = {name: negative(value) for name, value in against(comparison, first)[label].items()}
        table.add_row(label, *(signed(pair, name) for name in ("auroc", "brier")))
    return table


def censored_table(comparison: Comparison) -> Table:
    some = next(iter(comparison.censored.values()))
    table = titled(
        f"Censored feedback: {some['picks_per_step']} picks a step, {some['seeds']} seeds [95 % over seeds]",
        "estimator",
    )
    table.add_column("selector")
    for title in ("effective ratio", "starvation", *(title for title, _ in CENSORED)):
        table.add_column(title, justify="right")
    table.add_column("since visit p50/p90/p99", justify="right")
    table.add_column("ms/step", justify="right")
    for (estimator, selector), figures in comparison.censored.items():
        table.add_row(
            estimator,
            selector,
            with_interval(figures, "effective_ratio"),
            with_interval(figures, "starvation"),
            *(number(figures[key]) for _, key in CENSORED),
            "/".join(f"{figures[f'since_visit_p{percent}']:.0f}" for percent in (50, 90, 99)),
            f"{1000 * figures['estimator_seconds_per_step']:.1f}",
        )
    return table


# ---------------------------------------------------------------- cells


def titled(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    return table


def with_reference(comparison: Comparison) -> dict[str, dict[str, Any]]:
    extra = {} if comparison.reference is None else {SMOOTHER: comparison.reference}
    return {**comparison.full, **extra}


def number(value: float) -> str:
    return "-" if value != value else f"{value:.4f}"


def with_interval(figures: Mapping[str, Any], name: str) -> str:
    interval = figures["intervals"].get(name)
    return number(figures[name]) + ("" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]")


def signed(pair: Mapping[str, Any], name: str) -> str:
    interval = pair[f"{name}_interval"]
    if pair[name] != pair[name]:
        return "-"
    return f"{pair[name]:+.4f}" + ("" if interval is None else f" [{interval[0]:+.4f}, {interval[1]:+.4f}]")
