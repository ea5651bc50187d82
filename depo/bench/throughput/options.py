"""Options of ``depo bench throughput``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_throughput(benchmarks: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = benchmarks.add_parser("throughput")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True)
    return parser
