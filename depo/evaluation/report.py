"""An evaluation for readers: Markdown with plots from its JSON, and a table for the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depo.report.provenance import provenance_lines
from depo.report.tables import interval, table

Document = Mapping[str, Any]


Cells = Sequence[str]


DIGITS = 3


MOST_LEFT_OUT = 0.01
"""Share of a benchmark's problems that may be missing from the headline's pass@k."""


PLAIN_WIDTH = 240
"""Columns of a line that goes to a file or a pipe."""


def markdown(document: Document, stem: Path) -> str:
    """The report; plots are drawn beside ``stem`` (the JSON's path without suffix) as PNG and SVG."""
    from depo.evaluation.plots import draw

    suite = document["suite"]
    lines = [f"# {document['model']['name']} on {suite['name']}", "", *described(document), ""]
    lines += [*table(*main_table(document)), ""]
    lines += ["Accuracy by k, mean over problems:", "", *table(*by_k(document)), ""]
    lines += [*table(*health(document)), ""]
    lines += coverage_lines(document) + estimator_lines(document)
    for path in draw(document, stem):
        if path.suffix == ".png":
            lines += [f"![{path.stem}]({path.name})", ""]
    lines += [*notes(document), "", *provenance_lines(dict(document)), ""]
    return "\n".join(lines)


def described(document: Document) -> list[str]:
    suite, sampling = document["suite"], document["suite"]["sampling"]
    drawn = "greedy" if sampling["temperature"] == 0 else f"temperature {sampling['temperature']:g}"
    return [
        f"{sampling['n']} samples a problem, {drawn}, at most {sampling['max_new_tokens']:,} tokens; seed "
        f"{suite['seed']}; engine {suite['engine']}, {suite['dtype']}. "
        f"Figures are means over problems with 95 % intervals ({suite['resamples']:,} bootstrap resamples of "
        "problems, Clopper and Pearson's where all problems are alike); the last row is the plain mean over "
        "benchmarks."
    ]


def main_table(document: Document) -> tuple[Cells, list[Cells]]:
    """avg@n, and pass@k and maj@k at the largest k."""
    n, largest = document["suite"]["sampling"]["n"], largest_k(document)
    head = ["benchmark", "problems", f"avg@{n}", f"pass@{largest}", f"maj@{largest}"]
    rows = [
        [name, f"{one['problems']:,}", *row_figures(one, largest)]
        for name, one in document["benchmarks"].items()
    ]
    if len(rows) > 1:
        problems = sum(one["problems"] for one in document["benchmarks"].values())
        rows.append(["mean", f"{problems:,}", *row_figures(document["mean"], largest)])
    return head, rows


def row_figures(one: Mapping[str, Any], k: str) -> list[str]:
    majority = None if one["maj"] is None else one["maj"][k]
    return [interval(one["avg"], DIGITS), interval(one["pass"][k], DIGITS), interval(majority, DIGITS)]


def largest_k(document: Document) -> str:
    """The largest k that `MOST_LEFT_OUT` of no benchmark's problems have too few scorable samples for; the
    smallest where there is none. What a verifier cannot judge in time is mostly hard: a measure without such
    problems is another measure."""
    found = list(document["benchmarks"].values())
    ks = sorted(found[0]["pass"], key=int)
    fair = [k for k in ks if all(one["left_out"][k] <= MOST_LEFT_OUT * one["problems"] for one in found)]
    return max(fair, key=int) if fair else ks[0]


def by_k(document: Document) -> tuple[Cells, list[Cells]]:
    """pass@k and maj@k for every k, without intervals."""
    ks = list(document["mean"]["pass"])
    head = ["benchmark", "measure", *(f"k = {k}" for k in ks)]
    rows: list[Cells] = []
    for name, one in [*document["benchmarks"].items(), ("mean", document["mean"])]:
        rows += [
            [name, f"{measure}@k", *(middle(one[measure][k]) for k in ks)]
            for measure in ("pass", "maj")
            if one[measure] is not None
        ]
    return head, rows


def middle(values: Sequence[float | None]) -> str:
    return "–" if values[0] is None else f"{values[0]:.{DIGITS}f}"


def health(document: Document) -> tuple[Cells, list[Cells]]:
    """What can make an accuracy mean something else: cut, unreadable and unscorable completions."""
    head = ["benchmark", "tokens, mean", "median", "95 %", "truncated", "unparseable", "unscorable"]
    rows = []
    for name, one in document["benchmarks"].items():
        quantiles = one["tokens"].get("quantiles", {})
        rows.append(
            [
                name,
                "–" if one["mean_tokens"][0] is None else f"{one['mean_tokens'][0]:,.0f}",
                *(f"{quantiles[q]:,.0f}" if q in quantiles else "–" for q in ("50", "95")),
                percent(one["truncated"]),
                percent(one["unparseable"]),
                f"{one['unscorable']:,} of {one['samples']:,}",
            ]
        )
    return head, rows


def percent(values: Sequence[float | None]) -> str:
    return "–" if values[0] is None else f"{values[0]:.1%}"


def coverage_lines(document: Document) -> list[str]:
    """Fits of the coverage curves, and what they extrapolate to."""
    lines = []
    for name, one in document["benchmarks"].items():
        curve = one["coverage"]
        if curve is None:
            continue
        if curve["fit"] is None:
            lines.append(f"- {name}: no law fitted ({curve['why_not']}).")
            continue
        fit = curve["fit"]
        beyond = ", ".join(f"c({k:,}) = {interval(rest, DIGITS)}" for k, *rest in curve["extrapolated"])
        lines.append(
            f"- {name}: a = {fit['a']:.3g}, b = {fit['b']:.3g}, rmse {fit['rmse']:.2g}; beyond n {beyond}."
        )
    if not lines:
        return []
    head = "Coverage, exponentiated power law c(k) = exp(−a k^(−b)) (arXiv 2407.21787):"
    return [
        head,
        "",
        *lines,
        "",
        "Intervals are those of the fit over problems, given that the law holds.",
        "",
    ]


def estimator_lines(document: Document) -> list[str]:
    found = document["estimator"]
    if found is None:
        return []
    if found["why_not"]:
        return [f"Difficulty estimator: not asked; {found['why_not']}.", ""]
    if found["mae"] is None:
        return ["Difficulty estimator: not graded; no problem has a verdict.", ""]
    order = "–" if found["spearman"] is None else f"{found['spearman']:.3f}"
    without = f" It did without {found['without']}, which it had in training." if found["without"] else ""
    return [
        f"Difficulty estimator ({found['type']}) on these problems: mean absolute error of the predicted "
        f"pass rate {found['mae']:.3f}, bias {found['bias']:+.3f}, rank correlation {order}.{without}",
        "",
    ]


def notes(document: Document) -> list[str]:
    """What a reader of the figures has to know."""
    lines = [f"- {one['rows']}." for one in document["benchmarks"].values()]
    for name, one in document["benchmarks"].items():
        if one["maj_method"] is not None and one["maj"] is not None and len(one["maj"]) > 1:
            lines.append(
                f"- {name}: maj@k over subsets of the samples: {one['maj_method']}; by {one['vote']}."
            )
        if one.get("clopper_pearson"):
            lines.append(
                f"- {name}: all problems alike in {', '.join(one['clopper_pearson'])}: there the interval is "
                "Clopper and Pearson's over problems, resampling equals tells nothing."
            )
        lines += left_out(name, one)
    return lines


def left_out(name: str, one: Mapping[str, Any]) -> list[str]:
    left = {k: count for k, count in one["left_out"].items() if count}
    if not left:
        return []
    said = ", ".join(f"{count} at {'k = ' + k if k.isdigit() else k}" for k, count in left.items())
    return [
        f"- {name}: problems left out for want of scorable samples: {said}. They tend to be the hard "
        "ones: figures without them are too high."
    ]


def show(head: Cells, rows: Sequence[Cells], title: str) -> None:
    """A table on the terminal; plain text where stdout is none."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else PLAIN_WIDTH, highlight=False, markup=False, emoji=False)
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD if terminal else None)
    for column, name in enumerate(head):
        drawn.add_column(name, justify="right" if column else "left")
    for row in rows:
        drawn.add_row(*row)
    console.print(drawn)


def show_results(document: Document) -> None:
    """The terminal's part of a report."""
    name = f"{document['model']['name']} on {document['suite']['name']}"
    show(*main_table(document), title=f"{name} [95 %, bootstrap over problems]")
    show(*health(document), title="completions")
    gaps = [line for name, one in document["benchmarks"].items() for line in left_out(name, one)]
    for line in gaps + coverage_lines(document) + estimator_lines(document):
        if line:
            print(line)
