"""``depo bench NAME``: hand the parsed options to the benchmark of that name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.jobs import interruptible
from depo.errors import say


def bench(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run one benchmark; returns the exit status. Raises UserError for bad input."""
    match options.benchmark:
        case "selection":
            from benchmarks.selection.command import run
        case "model":
            from benchmarks.model.command import run
        case "throughput":
            from benchmarks.throughput.command import run
        case "report":
            from depo.report.document import run
        case other:
            raise ValueError(f"unknown benchmark {other!r}")
    try:
        with interruptible():
            return run(options, arguments)
    except KeyboardInterrupt:
        if options.benchmark in ("selection", "model"):
            say("stopped; the same command goes on from here")
        raise
