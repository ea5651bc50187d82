"""Two evaluations side by side: differences by problem, with their interval (``depo eval A --vs B``).

Both models answered the same problems, so the difference is taken problem by problem before anything is
averaged: what makes a problem hard for both cancels, and the interval is narrower than either model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from depo.errors import UserError
from depo.evaluation.model import RESULTS
from depo.evaluation.results import avg_of, maj_of, pass_of
from depo.files import read_json
from depo.report import document as report
from depo.report.provenance import provenance, provenance_blocks
from depo.report.statistics import DIFFERENCE, estimate, macro, paired

Document = Mapping[str, Any]


def read_results(directory: str) -> dict[str, Any]:
    """The results of a finished evaluation."""
    path = Path(directory) / RESULTS
    try:
        document = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(document, dict) or document.get("kind") != "eval":
        raise UserError(f"{path}: not the results of depo eval")
    return document


def compare(
    first: Document, second: Document, arguments: Sequence[str], sides: Sequence[str]
) -> dict[str, Any]:
    """The comparison as a document; ``sides`` are the two as the command line names them. Raises UserError
    when the two have no problem in common."""
    check_comparable(first, second)
    shared = [name for name in first["benchmarks"] if name in second["benchmarks"]]
    seed, resamples = first["suite"]["seed"], first["suite"]["resamples"]
    measures = measures_of(first, second, shared, seed)
    benchmarks = {name: counts(first, second, name) for name in shared}
    overall: dict[str, Any] = {}
    for measure, value in measures.items():
        parts = []
        for name in shared:
            a, b = (by_key(document, name, value) for document in (first, second))
            differences_N, weights_RN = paired(a, b, resamples, seed, name)
            both = {key for key in a.keys() & b.keys() if not np.isnan(a[key] - b[key])}
            benchmarks[name][measure] = {
                "first": average(a, both),
                "second": average(b, both),
                "difference": estimate(differences_N, weights_RN, DIFFERENCE),
                "without_verdict": benchmarks[name]["problems"] - len(both),
            }
            parts.append((differences_N, weights_RN))
        overall[measure] = mean_of([benchmarks[name][measure] for name in shared], parts)
    names = told_apart([document["model"]["name"] for document in (first, second)], sides)
    return {
        "kind": "eval_comparison",
        "first": {**first["model"], "shown": names[0]},
        "second": {**second["model"], "shown": names[1]},
        "suite": first["suite"]["name"],
        "unlike": unlike(first["suite"], second["suite"], shared),
        "only_first": [name for name in first["benchmarks"] if name not in shared],
        "only_second": [name for name in second["benchmarks"] if name not in shared],
        "benchmarks": benchmarks,
        "mean": overall,
        "provenance": provenance(arguments, [seed]),
    }


def told_apart(
    names: Sequence[str], sides: Sequence[str], roles: Sequence[str] = ("first", "second")
) -> tuple[str, str]:
    """The names of two models; where they are equal, each with the end of its path that tells them
    apart, or with its role where both came from one place. ``sides`` are the two as the command line names
    them."""
    first, second = names
    if first != second:
        return first, second
    parts = [Path(side).expanduser().resolve().parts for side in sides]
    if parts[0] == parts[1]:
        return f"{first} ({roles[0]})", f"{second} ({roles[1]})"
    length = next(n for n in range(1, 1 + max(map(len, parts))) if parts[0][-n:] != parts[1][-n:])
    ends = [Path(*some[-length:]) for some in parts]
    return f"{first} ({ends[0]})", f"{second} ({ends[1]})"


def check_comparable(first: Document, second: Document) -> None:
    """Raise UserError when the two have no benchmark in common, or one without a problem in common."""
    shared = [name for name in first["benchmarks"] if name in second["benchmarks"]]
    if not shared:
        raise UserError(
            f"--vs: no benchmark in common: {', '.join(first['benchmarks'])} against "
            f"{', '.join(second['benchmarks'])}"
        )
    for name in shared:
        counts(first, second, name)


def counts(first: Document, second: Document, name: str) -> dict[str, Any]:
    """How many problems of a benchmark both were asked, and how many are left out because only one was."""
    a, b = ({one["key"] for one in document["benchmarks"][name]["each"]} for document in (first, second))
    if not a & b:
        raise UserError(f"--vs: {name} has no problem in common; were its files or template the same?")
    return {"problems": len(a & b), "only_first": len(a - b), "only_second": len(b - a)}


def mean_of(
    figures: Sequence[Mapping[str, Any]], parts: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Any]:
    """The plain mean over benchmarks of one measure, Nones where one of them does not have it."""
    if any(not len(differences_N) for differences_N, _ in parts):
        return {"first": None, "second": None, "difference": [None, None, None]}
    return {
        "first": float(np.mean([one["first"] for one in figures])),
        "second": float(np.mean([one["second"] for one in figures])),
        "difference": macro([d for d, _ in parts], [w for _, w in parts], DIFFERENCE),
    }


def measures_of(
    first: Document, second: Document, shared: Sequence[str], seed: int
) -> dict[str, Callable[[Mapping[str, Any]], float]]:
    """avg, and every pass@k and maj@k that both have, as functions of one problem's figures."""
    ks = [k for k in first["benchmarks"][shared[0]]["pass"] if k in second["benchmarks"][shared[0]]["pass"]]
    found: dict[str, Callable[[Mapping[str, Any]], float]] = {"avg": avg_of}
    found |= {f"pass@{k}": partial(pass_of, k=int(k)) for k in ks}
    votes = all(d["benchmarks"][name]["maj"] is not None for d in (first, second) for name in shared)
    if votes:
        found |= {f"maj@{k}": partial(maj_of, k=int(k), seed=seed) for k in ks}
    return found


def by_key(document: Document, name: str, value: Callable[[Mapping[str, Any]], float]) -> dict[str, float]:
    return {one["key"]: value(one) for one in document["benchmarks"][name]["each"]}


def average(values: Mapping[str, float], keys: set[str]) -> float | None:
    return float(np.mean([values[key] for key in sorted(keys)])) if keys else None


def unlike(first: Mapping[str, Any], second: Mapping[str, Any], benchmarks: Sequence[str]) -> list[str]:
    """Settings in which two suites differ on ``benchmarks`` of both, in words: what else a difference may be
    due to."""
    lines = []
    for key in ("template", "system", "reward"):
        pairs = {name: (setting(first, name, key), setting(second, name, key)) for name in benchmarks}
        told = {name: f"{key}: {a!r} against {b!r}" for name, (a, b) in pairs.items() if a != b}
        if len(told) == len(benchmarks) and len(set(told.values())) == 1:
            lines.append(told[benchmarks[0]])
        else:
            lines += [f"benchmarks.{name}.{line}" for name, line in told.items()]
    keys = ("raw", "max_prompt_tokens", "engine", "dtype")
    lines += [f"{key}: {first[key]!r} against {second[key]!r}" for key in keys if first[key] != second[key]]
    old, new = first["sampling"], second["sampling"]
    lines += [f"sampling.{key}: {old[key]} against {new[key]}" for key in old if old[key] != new[key]]
    return lines


def setting(suite: Mapping[str, Any], benchmark: str, key: str) -> Any:
    """A key that a benchmark may set for itself: its own value or, where that is null, the suite's."""
    own = suite["benchmarks"][benchmark][key]
    return suite[key] if own is None else own


def comparison_report(result: Document) -> report.Document:
    return report.Document(
        title(result),
        [
            report.Paragraph("Paired by problem; 95 % intervals, bootstrap over problems."),
            table(result),
            report.Bullets([f"{line[0].upper()}{line[1:]}." for line in notes(result)]),
            *provenance_blocks(result),
        ],
    )


def show_comparison(result: Document) -> None:
    """The terminal's part of the report."""
    report.show(table(result, f"{title(result)} [95 %, paired by problem]"))
    for line in notes(result):
        print(f"note: {line}")


def title(result: Document) -> str:
    first, second = sides_of(result)
    return f"{first} − {second} on {result['suite']}"


def sides_of(result: Document) -> tuple[str, str]:
    return result["first"]["shown"], result["second"]["shown"]


def table(result: Document, caption: str = "") -> report.Table:
    """avg and the measures at the largest k: both models and the difference."""
    chosen = ["avg"]
    for kind in ("pass", "maj"):
        ks = [int(k) for name, _, k in (measure.partition("@") for measure in result["mean"]) if name == kind]
        chosen += [f"{kind}@{max(ks)}"] if ks else []
    shown = list(result["benchmarks"].items())
    if len(shown) > 1:
        shown.append(("mean", {"problems": sum(one["problems"] for _, one in shown)} | result["mean"]))
    rows = [
        [
            name,
            report.Number(one["problems"], ","),
            measure,
            report.Number(one[measure]["first"]),
            report.Number(one[measure]["second"]),
            report.Number.of(one[measure]["difference"], "+.3f"),
        ]
        for name, one in shown
        for measure in chosen
    ]
    return report.Table(["benchmark", "problems", "measure", *sides_of(result), "difference"], rows, caption)


def notes(document: Document) -> list[str]:
    """What a reader of the differences has to know: other settings, and what was left out."""
    lines = [f"the two differ in {line}" for line in document["unlike"]]
    for side, shown in zip(("only_first", "only_second"), sides_of(document), strict=True):
        if document[side]:
            lines.append(f"left out, only {shown} has them: {', '.join(document[side])}")
        lines += [
            f"{name}: problems left out, which only {shown} was asked: {one[side]:,}"
            for name, one in document["benchmarks"].items()
            if one[side]
        ]
    for name, one in document["benchmarks"].items():
        left = {m: one[m]["without_verdict"] for m in document["mean"] if one[m]["without_verdict"]}
        if left:
            said = ", ".join(f"{count:,} at {measure}" for measure, count in left.items())
            lines.append(f"{name}: problems left out for want of scorable samples on either side: {said}")
    return lines
