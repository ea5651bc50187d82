"""Two evaluations side by side: differences by problem, with their interval (``depo eval A --vs B``).

Both models answered the same problems, so the difference is taken problem by problem before anything is
averaged: what makes a problem hard for both cancels, and the interval is narrower than either model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from depo.bench.provenance import provenance, provenance_lines
from depo.bench.tables import interval, table
from depo.checkpoint import read_json
from depo.errors import UserError
from depo.evaluation.measures.intervals import DIFFERENCE, estimate, macro, paired
from depo.evaluation.report import DIGITS, Cells, show
from depo.evaluation.results import avg_of, maj_of, pass_of
from depo.evaluation.target import RESULTS

Document = Mapping[str, Any]


def read_results(directory: str) -> dict[str, Any]:
    """The results of a finished evaluation."""
    path = Path(directory) / RESULTS
    try:
        document = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error
    if document.get("kind") != "eval":
        raise UserError(f"{path}: not the results of depo eval")
    return document


def compare(first: Document, second: Document, arguments: Sequence[str]) -> dict[str, Any]:
    """The comparison as a document. Raises UserError when the two have no problem in common."""
    shared = [name for name in first["benchmarks"] if name in second["benchmarks"]]
    if not shared:
        raise UserError(
            f"--vs: no benchmark in common: {', '.join(first['benchmarks'])} against "
            f"{', '.join(second['benchmarks'])}"
        )
    seed, resamples = first["suite"]["seed"], first["suite"]["resamples"]
    measures = measures_of(first, second, shared, seed)
    benchmarks: dict[str, Any] = {name: {} for name in shared}
    overall: dict[str, Any] = {}
    for measure, value in measures.items():
        parts = []
        for name in shared:
            a, b = (by_key(document, name, value) for document in (first, second))
            differences_N, weights_RN = paired(a, b, resamples, seed, name)
            both = a.keys() & b.keys()
            if not both:
                raise UserError(
                    f"--vs: {name} has no problem in common; were its files or template the same?"
                )
            benchmarks[name]["problems"] = len(both)
            benchmarks[name][measure] = {
                "first": average(a, both),
                "second": average(b, both),
                "difference": estimate(differences_N, weights_RN, DIFFERENCE),
            }
            parts.append((differences_N, weights_RN))
        known = [part for part in parts if len(part[0])]
        overall[measure] = (
            macro([d for d, _ in known], [w for _, w in known], DIFFERENCE) if len(known) == len(parts) else None
        )
    return {
        "kind": "eval_comparison",
        "first": first["model"],
        "second": second["model"],
        "suite": first["suite"]["name"],
        "unlike": unlike(first["suite"], second["suite"]),
        "benchmarks": benchmarks,
        "mean": overall,
        "provenance": provenance(arguments, [seed]),
    }


def measures_of(
    first: Document, second: Document, shared: Sequence[str], seed: int
) -> dict[str, Callable[[Mapping[str, Any]], float]]:
    """avg, and every pass@k and maj@k that both have, as functions of one problem's figures."""
    ks = [k for k in first["benchmarks"][shared[0]]["pass"] if k in second["benchmarks"][shared[0]]["pass"]]
    found: dict[str, Callable[[Mapping[str, Any]], float]] = {"avg": avg_of}
    found |= {f"pass@{k}": lambda one, k=int(k): pass_of(one, k) for k in ks}
    votes = all(d["benchmarks"][name]["maj"] is not None for d in (first, second) for name in shared)
    if votes:
        found |= {f"maj@{k}": lambda one, k=int(k): maj_of(one, k, seed) for k in ks}
    return found


def by_key(document: Document, name: str, value: Callable[[Mapping[str, Any]], float]) -> dict[str, float]:
    return {one["key"]: value(one) for one in document["benchmarks"][name]["each"]}


def average(values: Mapping[str, float], keys: set[str]) -> float | None:
    known = [values[key] for key in sorted(keys) if not np.isnan(values[key])]
    return float(np.mean(known)) if known else None


def unlike(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Settings in which the two evaluations differ, in words: what else a difference may be due to."""
    keys = ("template", "system", "raw", "max_prompt_tokens", "reward", "engine", "dtype")
    lines = [f"{key}: {first[key]!r} against {second[key]!r}" for key in keys if first[key] != second[key]]
    old, new = first["sampling"], second["sampling"]
    lines += [f"sampling.{key}: {old[key]} against {new[key]}" for key in old if old[key] != new[key]]
    return lines


def rows_of(document: Document) -> tuple[Cells, list[Cells]]:
    """avg and the measures at the largest k: both models and the difference."""
    measures = list(next(iter(document["benchmarks"].values())))[1:]
    chosen = ["avg"] + [
        max((m for m in measures if m.startswith(kind)), key=lambda m: int(m.partition("@")[2]))
        for kind in ("pass@", "maj@")
        if any(m.startswith(kind) for m in measures)
    ]
    head = [
        "benchmark",
        "problems",
        "measure",
        document["first"]["name"],
        document["second"]["name"],
        "difference",
    ]
    rows: list[Cells] = []
    for name, one in document["benchmarks"].items():
        for measure in chosen:
            figures = one[measure]
            rows.append(
                [
                    name,
                    f"{one['problems']:,}",
                    measure,
                    plain(figures["first"]),
                    plain(figures["second"]),
                    signed(figures["difference"]),
                ]
            )
    if len(document["benchmarks"]) > 1:
        rows += [["mean", "", measure, "", "", signed(document["mean"][measure])] for measure in chosen]
    return head, rows


def plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.{DIGITS}f}"


def signed(values: Sequence[float | None] | None) -> str:
    """A difference with its sign and interval."""
    if values is None or values[0] is None:
        return "–"
    return ("+" if values[0] >= 0 else "") + interval(values, DIGITS)


def title(document: Document) -> str:
    return f"{document['first']['name']} − {document['second']['name']} on {document['suite']}"


def markdown(document: Document, stem: Path) -> str:
    """The comparison as Markdown; ``stem`` is not needed, there are no plots."""
    lines = [f"# {title(document)}", "", "Paired by problem; 95 % intervals, bootstrap over problems.", ""]
    lines += [*table(*rows_of(document)), ""]
    lines += [f"- The two differ in {line}." for line in document["unlike"]]
    return "\n".join([*lines, "", *provenance_lines(dict(document)), ""])


def show_comparison(document: Document) -> None:
    show(*rows_of(document), title=f"{title(document)} [95 %, paired by problem]")
    for line in document["unlike"]:
        print(f"note: the two differ in {line}")
