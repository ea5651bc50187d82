"""Options of ``depo bench model``."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.model.arms import ARMS, DEFAULT_ARMS
from benchmarks.model.forms import FORMS
from benchmarks.model.tasks import TASKS


def add_model(benchmarks: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = benchmarks.add_parser(
        "model",
        help="ways of choosing prompts on a real language model, at equal rollouts",
        description="Train a real language model once for each arm and seed, with the same number of "
        "rollouts, and compare. One run directory each, under --runs: finished ones are not repeated, an "
        "interrupted one continues from its checkpoint. Checkpoints of a finished run are removed.",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="result, FILE.json")
    parser.add_argument(
        "--model", metavar="DIR_OR_ID", required=True, help="chat model, e.g. of `depo fetch smollm2 DIR`"
    )
    parser.add_argument("--task", choices=tuple(TASKS), default="sums", help="default: %(default)s")
    parser.add_argument(
        "--arm",
        action="append",
        choices=ARMS,
        help=f"repeatable; default: {', '.join(DEFAULT_ARMS)}, with --encoder depo as well",
    )
    parser.add_argument("--encoder", metavar="DIR_OR_ID", help="text encoder of the arm depo")
    parser.add_argument("--seeds", default="0", metavar="0,1", help="default: %(default)s")
    parser.add_argument(
        "--form",
        choices=tuple(FORMS),
        help="size of the benchmark; default: gpu where there is a CUDA device",
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="the horizon: rollouts of N steps without refill"
    )
    parser.add_argument(
        "--engine", choices=("transformers", "vllm"), help="default: vllm with --form gpu, if installed"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs at a time, which share cores and GPU; their times mean less then (%(default)s)",
    )
    parser.add_argument(
        "--runs", type=Path, metavar="DIR", help="run directories; default: runs/ and the result's name"
    )
    parser.add_argument("--dry-run", action="store_true", help="check and show what would be run, no more")
    return parser
