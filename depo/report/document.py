"""From a benchmark's JSON file to Markdown and plots beside it: ``depo bench report DIR``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from depo.errors import DONE, UserError

Renderer = Callable[[dict[str, Any], Path], str]
"""(document, path without suffix) → Markdown; draws its plots beside that path."""


def write_result(document: dict[str, Any], path: Path) -> list[Path]:
    """Store ``document`` as ``path`` (.json) and render it; returns the two files. ``document["kind"]`` names
    the benchmark. Written aside and renamed, so that a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    aside.replace(path)
    return [path, render(document, path)]


def render(document: dict[str, Any], path: Path) -> Path:
    """Write the Markdown (and plots) of a document read from ``path``; returns the Markdown file."""
    markdown = path.with_suffix(".md")
    markdown.write_text(renderer(document["kind"])(document, path.with_suffix("")), encoding="utf-8")
    return markdown


def renderer(kind: str) -> Renderer:
    match kind:
        case "selection":
            from benchmarks.selection.report import markdown
        case "selection_tuning":
            from benchmarks.selection.tune import markdown
        case "model":
            from benchmarks.model.report import markdown
        case "throughput":
            from benchmarks.throughput.report import markdown
        case "eval":
            from depo.evaluation.report import markdown
        case "eval_comparison":
            from depo.evaluation.comparison import markdown
        case "route":
            from depo.evaluation.cascade.report import markdown
        case other:
            raise UserError(
                f"kind {other!r}: no benchmark of that name; known: selection, selection_tuning, model, "
                "throughput, eval, eval_comparison, route"
            )
    return markdown


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Render every result in the directory again. JSON files of other origin are passed over."""
    directory: Path = options.directory
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; expected one with JSON files of depo bench")
    found = [(path, document) for path in sorted(directory.glob("*.json")) if (document := read(path))]
    if not found:
        raise UserError(f"{directory}: no JSON file written by depo bench in it")
    for path, document in found:
        print(render(document, path))
    return DONE


def read(path: Path) -> dict[str, Any] | None:
    """A benchmark's document; None for JSON of other origin. Raises UserError for what is no JSON."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    return value if isinstance(value, dict) and {"kind", "provenance"} <= value.keys() else None
