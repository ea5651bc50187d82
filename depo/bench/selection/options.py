"""Options of ``depo bench selection``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_selection(benchmarks: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = benchmarks.add_parser("selection")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True)
    return parser
