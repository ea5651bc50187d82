"""The options of ``depo bench``, without importing what a benchmark needs."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.model.options import add_model
from benchmarks.selection.options import add_selection
from benchmarks.throughput.options import add_throughput


def add_bench(commands: argparse._SubParsersAction) -> list[argparse.ArgumentParser]:
    """Add ``bench`` with its benchmarks; returns the parsers, for messages about unknown arguments."""
    bench = commands.add_parser(
        "bench",
        help="measure: rollouts to the same accuracy, throughput",
        description="Measure what selection saves and how fast the loop is. See docs/benchmarks.md.",
    )
    benchmarks = bench.add_subparsers(dest="benchmark", required=True, parser_class=type(bench))
    return [
        add_selection(benchmarks),
        add_model(benchmarks),
        add_throughput(benchmarks),
        add_report(benchmarks),
    ]


def add_report(benchmarks: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = benchmarks.add_parser(
        "report",
        help="render Markdown and plots from the JSON files of earlier benchmarks",
        description="Render NAME.md and NAME*.png beside every NAME.json that a benchmark wrote into DIR.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="e.g. benchmarks/results")
    return parser
