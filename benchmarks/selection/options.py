"""Options of ``depo bench selection``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_selection(benchmarks: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = benchmarks.add_parser(
        "selection",
        help="rollouts to the same accuracy, live RL on a small policy, paired seeds",
        description="How many rollouts does each way of choosing prompts need? Live RL on a small policy, "
        "without a GPU. What is finished in OUT is not run again: stop it at any time and start it again. "
        "By default 20 runs of 320,000 rollouts, 4 to 16 minutes each on one core, after 5 warm starts of 3 "
        "to 8 minutes: less than two hours on 2 cores.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="for the runs and the result")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick", action="store_true", help="one seed, a short horizon; sized for 10 minutes on 2 cores"
    )
    size.add_argument("--full", action="store_true", help="every arm on every pool: two days on 2 cores")
    size.add_argument(
        "--tune", action="store_true", help="learning rates of the arms, on a family of its own"
    )
    parser.add_argument("--arms", type=listed, metavar="A,B", help="default: grpo,dapo,depo,hybrid")
    parser.add_argument("--pools", type=listed, metavar="A,B", help="default: mixed")
    parser.add_argument("--seeds", type=numbers, metavar="0,1", help="default: 0,1,2,3,4")
    parser.add_argument(
        "--passes", type=float, metavar="N", help="horizon in passes over the pool; default: 10"
    )
    parser.add_argument("--encoder", type=Path, metavar="DIR", help="text encoder for DEPO; default: fetched")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="runs at a time (%(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="per run; default: cores / jobs")
    parser.add_argument("--name", help="of the result's files; default: selection or selection_tuning")
    return parser


def listed(text: str) -> list[str]:
    """Not empty: an unset variable of a shell must not start the default, hours of work."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise argparse.ArgumentTypeError("expected one at least, found nothing")
    return parts


def numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in listed(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers like 0,1,2, found {text!r}") from None
