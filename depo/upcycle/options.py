"""The options of ``depo upcycle``, without importing torch; ``depo.upcycle.settings`` checks their values."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
examples
  depo upcycle models/smollm2 models/smollm2-moe
      exact: 4 slices x 2 replicas, all 8 experts active, the logits of the dense model
  depo upcycle models/smollm2 models/smollm2-moe --top-k 4 --router grouped
      sparse and exact all the same: each token gets the four slices of one replica
  depo upcycle models/smollm2 models/smollm2-moe --top-k 4 --drop 0.5 --repair 50
      sparse, any four experts a token, then distilled from the dense model for 50 steps

See docs/moe.md.
"""


def add_upcycle(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add ``upcycle``; returns its parser, for messages about unknown arguments."""
    parser = commands.add_parser(
        "upcycle",
        help="make a mixture of experts out of a dense model",
        description="Cut the feed-forward layers of a dense model into experts and write the mixture.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dense", metavar="DENSE", help="directory or hub id: llama, mistral or qwen3")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new directory")
    parser.add_argument(
        "--slices", type=int, default=4, metavar="N", help="cuts of each feed-forward layer (%(default)s)"
    )
    parser.add_argument(
        "--replicas", type=int, default=2, metavar="M", help="copies of each slice (%(default)s)"
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="experts of a token; default: all N x M")
    parser.add_argument(
        "--drop", type=float, default=0.0, metavar="R", help="share of dimensions drawn anew (%(default)s)"
    )
    parser.add_argument("--scaling", choices=("exact", "marco"), default="exact", help="%(default)s")
    parser.add_argument(
        "--router",
        choices=("random", "grouped"),
        default="random",
        help="grouped: a token gets all slices of a replica (%(default)s)",
    )
    parser.add_argument(
        "--router-std", type=float, metavar="S", help="default: 0 with all experts active, else 0.02"
    )
    parser.add_argument("--seed", type=int, default=0, help="of routers and dropped dimensions (%(default)s)")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to measure and repair; auto: cuda where there is one (%(default)s)",
    )
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="passages to measure on and to repair with, .txt or .jsonl"
    )
    parser.add_argument(
        "--repair", type=int, default=0, metavar="STEPS", help="distil from the dense model afterwards"
    )
    parser.add_argument("--repair-lr", type=float, default=3e-4, metavar="LR", help="(%(default)s)")
    parser.add_argument(
        "--repair-batch", type=int, default=8, metavar="B", help="sequences a repair step (%(default)s)"
    )
    parser.add_argument(
        "--repair-length", type=int, default=256, metavar="T", help="tokens of a sequence (%(default)s)"
    )
    return parser
