"""Options of ``depo bench throughput``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_throughput(benchmarks: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = benchmarks.add_parser(
        "throughput",
        help="samples/s, learner tokens/s, memory and start-up time against TRL's GRPOTrainer",
        description="Measure depo and TRL's GRPOTrainer on the same work, paired, and the driver's share of "
        "a step. Meant for a machine that does nothing else. Under 10 minutes on 2 cores.",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", required=True, help="FILE.md is put beside it"
    )
    parser.add_argument(
        "--model", metavar="DIR_OR_ID", help="default: an untrained tiny qwen3_moe, as in the quickstart"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="timed steps of an end-to-end run (default 30)"
    )
    parser.add_argument("--repeats", type=int, metavar="R", help="pairs of runs (default 5)")
    parser.add_argument("--quick", action="store_true", help="a look in under 2 minutes: 8 steps, 2 repeats")
    return parser
