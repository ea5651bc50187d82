"""``depo upcycle``: its options. What it does is in ``convert``, which imports torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from depo.errors import DONE

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


def add_options(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "upcycle",
        help="make a mixture of experts out of a dense model",
        description="Cut the feed-forward layers of a dense model into experts and write the mixture.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("dense", metavar="DENSE", help="directory or hub id: llama, mistral or qwen3")
    add("out", type=Path, metavar="OUT", help="a new directory")
    add("--slices", type=int, default=4, metavar="N", help="cuts of each feed-forward layer (%(default)s)")
    add("--replicas", type=int, default=2, metavar="M", help="copies of each slice (%(default)s)")
    add("--top-k", type=int, metavar="K", help="experts of a token; default: all N x M")
    add("--drop", type=float, default=0.0, metavar="R", help="share of dimensions drawn anew (%(default)s)")
    add("--scaling", choices=("exact", "marco"), default="exact", help="%(default)s")
    add(
        "--router",
        choices=("random", "grouped"),
        default="random",
        help="grouped: a token gets all slices of a replica (%(default)s)",
    )
    add("--router-std", type=float, metavar="S", help="default: 0 with all experts active, else 0.02")
    add("--seed", type=int, default=0, help="of routers and dropped dimensions (%(default)s)")
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to measure and repair; auto: cuda where there is one (%(default)s)",
    )
    add("--text", type=Path, metavar="FILE", help="passages to measure on and to repair with, .txt or .jsonl")
    add("--repair", type=int, default=0, metavar="STEPS", help="distil from the dense model afterwards")
    add("--repair-lr", type=float, default=3e-4, metavar="LR", help="(%(default)s)")
    add("--repair-batch", type=int, default=8, metavar="B", help="sequences a repair step (%(default)s)")
    add("--repair-length", type=int, default=256, metavar="T", help="tokens of a sequence (%(default)s)")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    from depo.moe.upcycle.convert import upcycle

    upcycle(options)
    return DONE
