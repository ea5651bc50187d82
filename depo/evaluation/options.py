"""The options of ``depo eval``; ``depo.evaluation.command`` checks their values. Imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
  depo eval runs/math-7 --suite math --n 32 --engine vllm        a training run's policy
  depo eval DIR --suite aime --data-dir data                     a model directory; files instead of the hub
  depo eval A --vs B --suite math                                two models, paired by problem
  depo eval runs/eval-a --vs runs/eval-b                         two finished evaluations
  depo eval DIR --suite math benchmarks.gsm8k.source.limit=100   any key of the suite, as for recipes

Suites: a name in recipes/eval or a YAML file. See docs/evaluation.md.
"""


def benchmark_names(text: str) -> list[str]:
    """``gsm8k,amc23`` → both."""
    return [name.strip() for name in text.split(",")]


def add_eval(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "eval",
        help="measure a model on a suite of benchmarks",
        description="Measure a model on a suite of benchmarks, with intervals.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="MODEL_OR_RUN", help="model directory, hub id, or run directory")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="keys of the suite")
    parser.add_argument("--suite", metavar="NAME", help="math, aime, mgsm, reasoning_gym, or a YAML file")
    parser.add_argument("--only", type=benchmark_names, metavar="NAME,...", help="these of its benchmarks")
    parser.add_argument("--n", type=int, metavar="N", help="samples a problem; short for sampling.n=N")
    parser.add_argument("--engine", choices=("transformers", "vllm"), help="short for engine=...")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="local copies of the benchmarks")
    parser.add_argument("--vs", metavar="MODEL_OR_RUN", help="another model, or evaluation, to compare with")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/eval-SUITE-TIMESTAMP")
    parser.add_argument("--resume", action="store_true", help="continue the evaluation in --run-dir")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results there too")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the result")
    return parser
