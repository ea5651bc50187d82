"""``depo report RUN [RUN ...]``: what happened in a run, as one HTML file to look at.

Also of what ``depo eval`` and ``depo route`` stored. Importing this module imports nothing heavy.
"""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from depo.errors import DONE, UserError
from depo.files import check_place, read_json, write_text

EXAMPLES = """\
  depo report runs/math-7 --open                   one run; writes runs/math-7/report.html
  depo report runs/a runs/b runs/c --out abc.html  several, side by side, paired by seed where they are
  depo report runs/eval-math                       an evaluation, a comparison or a route

Reads metrics.jsonl, recipe.yaml, summary.json and rollouts/ of a run, also while it goes on. The file needs
no network. See docs/report.md.
"""

RESULTS = ("comparison.json", "route.json", "probe.json", "results.json")
"""In the directory of an evaluation: the first that is there tells most."""


def add_options(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "report",
        help="look at runs in a browser: one HTML file",
        description="Write one HTML file that shows a run: its figures by step, and its rollouts.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run directory; or an evaluation's, or its JSON")
    add("--out", type=Path, metavar="FILE", help="default: report.html in RUN, or here for several runs")
    add("--open", action="store_true", help="open it in the browser")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Write the page, print where it is. Raises UserError for what is no run and no result."""
    paths: list[Path] = options.runs
    first = paths[0]
    result = stored_result(first) if len(paths) == 1 else None
    if result is not None:
        out = options.out or result.with_suffix(".html")
    else:
        out = options.out or (first / "report.html" if len(paths) == 1 else Path("report.html"))
    if out.is_dir():
        raise UserError(f"--out {out}: is a directory; name a file in it")
    check_place(out, "--out")
    if result is not None:
        from depo.report.html import to_html

        content = read_result(result)
        html = to_html(report_of(content, result)(content))
    else:
        from depo.page.run_page import run_page

        html = run_page(paths)
    write_text(out, html)
    print(out)
    if options.open:
        webbrowser.open(out.resolve().as_uri())
    return DONE


def stored_result(path: Path) -> Path | None:
    """The JSON file that an argument means; None where it means a run."""
    if path.is_file():
        return path
    return next((path / name for name in RESULTS if (path / name).is_file()), None)


def read_result(path: Path) -> Mapping[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not JSON ({error}); expected a run directory or a stored result") from None
    if not isinstance(content, dict) or "kind" not in content:
        raise UserError(f'{path}: has no "kind", so it is no stored result; expected one, or a run directory')
    return content


def report_of(result: Mapping[str, Any], path: Path) -> Callable[[Mapping[str, Any]], Any]:
    """What is to be read of a result. Raises UserError for a kind that is not depo's own."""
    from depo.evaluation.cascade.report import route_report
    from depo.evaluation.comparison import comparison_report
    from depo.evaluation.report import eval_report
    from depo.probe.report import probe_report

    known = {
        "eval": eval_report,
        "eval_comparison": comparison_report,
        "route": route_report,
        "probe": probe_report,
    }
    if result["kind"] not in known:
        raise UserError(
            f"{path}: kind {result['kind']!r} is none of {', '.join(known)}; for a benchmark's result: "
            "python -m benchmarks report DIR --html"
        )
    return known[result["kind"]]
