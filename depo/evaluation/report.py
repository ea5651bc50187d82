"""An evaluation for readers: a report with pictures from its JSON, and its main part on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from depo.report.document import Block, Bullets, Document, Figure, Number, Paragraph, Table, show
from depo.report.plots import draw_curve, new_figure, panels, reliability_figure
from depo.report.provenance import provenance_blocks

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

Result = Mapping[str, Any]

MOST_LEFT_OUT = 0.01
"""Share of a benchmark's problems that may be missing from the headline's pass@k."""


def eval_report(result: Result) -> Document:
    """What ``depo eval`` found of one model."""
    return Document(
        name_of(result),
        [
            Paragraph(described(result)),
            main_table(result),
            by_k(result),
            health(result),
            *coverage_blocks(result),
            *estimator_blocks(result),
            *figures(result),
            Bullets(notes(result)),
            *provenance_blocks(result),
        ],
    )


def show_results(result: Result) -> None:
    """The terminal's part of the report."""
    gaps = [line for name, one in result["benchmarks"].items() for line in left_out(name, one)]
    title = f"{name_of(result)} [95 %, bootstrap over problems]"
    show(main_table(result, title), health(result), Bullets(gaps))
    show(*coverage_blocks(result), *estimator_blocks(result))


def name_of(result: Result) -> str:
    return f"{result['model']['name']} on {result['suite']['name']}"


def described(result: Result) -> str:
    suite, sampling = result["suite"], result["suite"]["sampling"]
    drawn = "greedy" if sampling["temperature"] == 0 else f"temperature {sampling['temperature']:g}"
    return (
        f"{sampling['n']} samples a problem, {drawn}, at most {sampling['max_new_tokens']:,} tokens; seed "
        f"{suite['seed']}; engine {suite['engine']}, {suite['dtype']}. "
        f"Figures are means over problems with 95 % intervals ({suite['resamples']:,} bootstrap resamples of "
        "problems, Clopper and Pearson's where all problems are alike); the last row is the plain mean over "
        "benchmarks."
    )


# ---------------------------------------------------------------- tables


def main_table(result: Result, caption: str = "") -> Table:
    """avg@n, and pass@k and maj@k at the largest k."""
    n, k, benchmarks = result["suite"]["sampling"]["n"], largest_k(result), result["benchmarks"]
    shown = [(name, one["problems"], one) for name, one in benchmarks.items()]
    if len(shown) > 1:
        shown.append(("mean", sum(problems for _, problems, _ in shown), result["mean"]))
    rows = [
        [
            name,
            Number(problems, ","),
            Number.of(one["avg"]),
            Number.of(one["pass"][k]),
            Number.of(one["maj"] and one["maj"][k]),
        ]
        for name, problems, one in shown
    ]
    return Table(["benchmark", "problems", f"avg@{n}", f"pass@{k}", f"maj@{k}"], rows, caption)


def largest_k(result: Result) -> str:
    """The largest k that `MOST_LEFT_OUT` of no benchmark's problems have too few scorable samples for; the
    smallest where there is none. What a verifier cannot judge in time is mostly hard: a measure without such
    problems is another measure."""
    found = list(result["benchmarks"].values())
    ks = sorted(found[0]["pass"], key=int)
    fair = [k for k in ks if all(one["left_out"][k] <= MOST_LEFT_OUT * one["problems"] for one in found)]
    return max(fair, key=int) if fair else ks[0]


def by_k(result: Result) -> Table:
    """pass@k and maj@k for every k, without intervals."""
    ks = list(result["mean"]["pass"])
    rows = [
        [name, f"{measure}@k", *(Number(one[measure][k][0]) for k in ks)]
        for name, one in [*result["benchmarks"].items(), ("mean", result["mean"])]
        for measure in ("pass", "maj")
        if one[measure] is not None
    ]
    head = ["benchmark", "measure", *(f"k = {k}" for k in ks)]
    return Table(head, rows, "Accuracy by k, mean over problems:")


def health(result: Result) -> Table:
    """What can make an accuracy mean something else: cut, unreadable and unscorable completions."""
    rows = [
        [
            name,
            Number(one["mean_tokens"][0], ",.0f"),
            *(Number(one["tokens"].get("quantiles", {}).get(q), ",.0f") for q in ("50", "95")),
            Number(one["truncated"][0], ".1%"),
            Number(one["unparseable"][0], ".1%"),
            f"{one['unscorable']:,} of {one['samples']:,}",
        ]
        for name, one in result["benchmarks"].items()
    ]
    head = ["benchmark", "tokens, mean", "median", "95 %", "truncated", "unparseable", "unscorable"]
    return Table(head, rows, "Completions:")


# ---------------------------------------------------------------- text


def coverage_blocks(result: Result) -> list[Block]:
    """Fits of the coverage curves, and what they extrapolate to."""
    lines = []
    for name, one in result["benchmarks"].items():
        curve = one["coverage"]
        if curve is None:
            continue
        if curve["fit"] is None:
            lines.append(f"{name}: no law fitted ({curve['why_not']}).")
            continue
        fit = curve["fit"]
        beyond = ", ".join(f"c({k:,}) = {Number.of(rest)}" for k, *rest in curve["extrapolated"])
        lines.append(
            f"{name}: a = {fit['a']:.3g}, b = {fit['b']:.3g}, rmse {fit['rmse']:.2g}; beyond n {beyond}."
        )
    if not lines:
        return []
    return [
        Paragraph("Coverage, exponentiated power law c(k) = exp(−a k^(−b)) (arXiv 2407.21787):"),
        Bullets(lines),
        Paragraph("Intervals are those of the fit over problems, given that the law holds."),
    ]


def estimator_blocks(result: Result) -> list[Block]:
    found = result["estimator"]
    if found is None:
        return []
    if found["why_not"]:
        return [Paragraph(f"Difficulty estimator: not asked; {found['why_not']}.")]
    if found["mae"] is None:
        return [Paragraph("Difficulty estimator: not graded; no problem has a verdict.")]
    without = f" It did without {found['without']}, which it had in training." if found["without"] else ""
    return [
        Paragraph(
            f"Difficulty estimator ({found['type']}) on these problems: mean absolute error of the predicted "
            f"pass rate {found['mae']:.3f}, bias {found['bias']:+.3f}, rank correlation "
            f"{Number(found['spearman'])}.{without}"
        )
    ]


def notes(result: Result) -> list[str]:
    """What a reader of the figures has to know."""
    lines = [f"{one['rows']}." for one in result["benchmarks"].values()]
    for name, one in result["benchmarks"].items():
        if one["maj_method"] is not None and one["maj"] is not None and len(one["maj"]) > 1:
            lines.append(f"{name}: maj@k over subsets of the samples: {one['maj_method']}; by {one['vote']}.")
        if one.get("clopper_pearson"):
            lines.append(
                f"{name}: all problems alike in {', '.join(one['clopper_pearson'])}: there the interval is "
                "Clopper and Pearson's over problems, resampling equal values tells nothing."
            )
        lines += left_out(name, one)
    return lines


def left_out(name: str, one: Mapping[str, Any]) -> list[str]:
    left = {k: count for k, count in one["left_out"].items() if count}
    if not left:
        return []
    said = ", ".join(f"{count} at {'k = ' + k if k.isdigit() else k}" for k, count in left.items())
    return [
        f"{name}: problems left out for want of scorable samples: {said}. They tend to be the hard "
        "ones: figures without them are too high."
    ]


# ---------------------------------------------------------------- pictures


def figures(result: Result) -> list[Figure]:
    """Coverage, lengths and, where an estimator was asked, its reliability."""
    benchmarks, estimator = result["benchmarks"], result["estimator"]
    found = []
    if any(one["coverage"] is not None for one in benchmarks.values()):
        found.append(Figure("coverage", "coverage by number of samples", partial(draw_coverage, benchmarks)))
    found.append(Figure("length", "lengths of completions", partial(draw_lengths, benchmarks)))
    if estimator is not None and estimator.get("bins"):
        title = f"estimator {estimator['type']}"
        axes = ("problems", "predicted pass rate", "measured pass rate")
        found.append(
            Figure("reliability", title, partial(reliability_figure, estimator["bins"], title, *axes))
        )
    return found


def draw_coverage(benchmarks: Mapping[str, Any]) -> Drawing:
    """Coverage against k with its band; the fitted law goes on, dashed, to where it was extrapolated."""
    figure = new_figure(6.5, 4.5)
    axes = figure.add_subplot()
    for place, (name, one) in enumerate(benchmarks.items()):
        curve = one["coverage"]
        if curve is None:
            continue
        colour = f"C{place % 10}"
        k_K, middle_K, low_K, high_K = np.array(curve["curve"], dtype=float).T
        draw_curve(axes, k_K, middle_K, (low_K, high_K), colour=colour, label=name, style=".-")
        if curve["fit"] is not None and curve["extrapolated"]:
            far_K = np.geomspace(1, max(row[0] for row in curve["extrapolated"]), 100)
            law_K = np.exp(-curve["fit"]["a"] * far_K ** -curve["fit"]["b"])
            draw_curve(axes, far_K, law_K, colour=colour, style="--", width=1)
            for k, middle, low, high in curve["extrapolated"]:
                if low is not None and high is not None:
                    axes.plot([k, k], [low, high], color=colour, linewidth=1)
                axes.plot([k], [middle], color=colour, marker="o", fillstyle="none")
    axes.set_xscale("log")
    axes.set(xlabel="samples k", ylabel="coverage (pass@k)", ylim=(-0.02, 1.02))
    axes.legend(fontsize="small")
    return figure


def draw_lengths(benchmarks: Mapping[str, Any]) -> Drawing:
    """Histograms of completion length, right and wrong ones, one panel a benchmark."""
    figure, places = panels(list(benchmarks), 4, 2.6)
    for axes, one in zip(places, benchmarks.values(), strict=True):
        tokens = one["tokens"]
        if tokens:
            edges = tokens["edges"]
            axes.stairs(tokens["right"], edges, color="tab:green", fill=True, alpha=0.5, label="right")
            axes.stairs(tokens["wrong"], edges, color="tab:red", label="wrong")
        axes.set(xlabel="tokens", ylabel="completions")
    places[0].legend(fontsize="small")
    return figure
