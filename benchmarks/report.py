"""Render results again: NAME.md and its pictures beside every NAME.json in DIR that a benchmark, ``depo
eval`` or ``depo route`` wrote.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from depo.errors import DONE, UserError
from depo.files import write_text
from depo.report import document
from depo.report.document import Code, Report, Text
from depo.report.html import to_html
from depo.report.provenance import provenance

REPORTS = {
    "selection": "benchmarks.selection.report:report",
    "selection_tuning": "benchmarks.selection.tune:report",
    "model": "benchmarks.model.report:report",
    "trl_picker": "benchmarks.trl_picker:report",
    "throughput": "benchmarks.throughput.report:report",
    "replay_training_trace": "benchmarks.replay_training_trace:report",
    "first_visit": "benchmarks.first_visit:report",
    "policy_features": "benchmarks.policy_features:report",
    "routing_replay": "benchmarks.routing_replay:report",
    "vllm_engine": "benchmarks.vllm_engine:report",
    "weight_sync": "benchmarks.weight_sync:report",
    "eval": "depo.evaluation.report:eval_report",
    "eval_comparison": "depo.evaluation.comparison:comparison_report",
    "route": "depo.evaluation.cascade.report:route_report",
}
"""Kind of a result → module:function that says what is to be read of it."""


def made_by(arguments: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """The provenance of a result; ``arguments`` begin with the benchmark's name."""
    return provenance(arguments, seeds, "python -m benchmarks")


def write_result(result: dict[str, Any], path: Path) -> list[Path]:
    """Store ``result`` as ``path`` (.json) with its report beside it; returns the two files.
    ``result["kind"]`` names the benchmark."""
    return document.write_result(result, path, report_of(result["kind"]))


def report_of(kind: str) -> Report:
    """Raises UserError for a kind that no benchmark has."""
    if kind not in REPORTS:
        raise UserError(f"kind {kind!r}: no benchmark of that name; known: {', '.join(REPORTS)}")
    module, _, name = REPORTS[kind].partition(":")
    return getattr(import_module(module), name)


def coded(text: str) -> Text:
    """Text in which `backticks` mark code."""
    return [Code(part) if i % 2 else part for i, part in enumerate(text.split("`"))]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="e.g. benchmarks/results")
    parser.add_argument("--html", action="store_true", help="one page a result, with its pictures inside")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Render every result in the directory again. JSON files of other origin are passed over."""
    directory: Path = options.directory
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; expected one with results of benchmarks")
    found = [(path, result) for path in sorted(directory.glob("*.json")) if (result := read(path))]
    if not found:
        raise UserError(f"{directory}: no result of a benchmark in it")
    for path, result in found:
        read_of = report_of(result["kind"])(result)
        if options.html:
            write_text(path.with_suffix(".html"), to_html(read_of))
            print(path.with_suffix(".html"))
        else:
            print(document.write_document(read_of, path.with_suffix("")))
    return DONE


def read(path: Path) -> dict[str, Any] | None:
    """A stored result; None for JSON of other origin. Raises UserError for what is no JSON."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict) or "provenance" not in value:
        return None
    if "kind" not in value:  # results of earlier versions are named after their benchmark
        kinds = [kind for kind in REPORTS if path.name.startswith(kind)]
        value["kind"] = kinds[0] if kinds else None
    return value if value["kind"] else None
