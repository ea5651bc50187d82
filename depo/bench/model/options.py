"""Options of ``depo bench model``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_model(benchmarks: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = benchmarks.add_parser("model")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True)
    return parser
