"""The options of ``depo route``; ``depo.evaluation.cascade.command`` checks them. Imports nothing heavy.

``depo route`` from parsed options to table, JSON, Markdown and plot.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from depo.errors import DONE
from depo.evaluation.cascade.inputs import (
    check_same_problems,
    estimator_of,
    joined,
    predicted_pass_rates,
    price_of,
)
from depo.evaluation.cascade.report import route_report, show_route
from depo.evaluation.cascade.results import route_document
from depo.evaluation.command import benchmark_names, check_json, evaluated, write_copy
from depo.evaluation.comparison import Document
from depo.evaluation.target import told_apart
from depo.files import new_directory
from depo.recipe.loading import load_recipe
from depo.report.document import write_result

EXAMPLES = """\
  depo route --small runs/eval-small --large runs/eval-large --estimator runs/math-7
                                             two finished evaluations of one suite: nothing is sampled
  depo route --small runs/math-7 --large DIR --estimator runs/math-7 --suite math --tau 0.3,0.5,0.7,0.75
                                             evaluates both models first

A question goes to the small model where the estimator predicts a pass rate above tau. See docs/evaluation.md.
"""


def thresholds(text: str) -> list[float]:
    """``0.3,0.5`` as ascending numbers in [0, 1]."""
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers with commas, as 0.3,0.5; found {text!r}"
        ) from None
    for tau in found:
        if not 0 <= tau <= 1:
            raise argparse.ArgumentTypeError(f"{tau:g} is no pass rate: every tau lies between 0 and 1")
    return found


def ratio(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, found {text!r}") from None
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, found {text}")
    return found


def add_route(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "route",
        help="send easy questions to a small model: accuracy against cost",
        description="Accuracy and cost of two models behind a router that asks a difficulty estimator.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("overrides", nargs="*", default=[], metavar="key=value", help="keys of the suite")
    add("--small", required=True, metavar="A", help="finished evaluation, model or run")
    add("--large", required=True, metavar="B", help="finished evaluation, model or run")
    add("--estimator", required=True, metavar="RUN", help="training run whose estimator routes")
    add("--suite", metavar="NAME", help="math, aime, mgsm, reasoning_gym, or a YAML file")
    add("--tau", type=thresholds, default=[0.3, 0.5, 0.7, 0.75], metavar="T,...", help="thresholds")
    add("--cost-ratio", type=ratio, metavar="R", help="a large model's token costs R of the small one's")
    add("--only", type=benchmark_names, metavar="NAME,...", help="these of its benchmarks")
    add("--n", type=int, metavar="N", help="samples a problem; short for sampling.n=N")
    add("--engine", choices=("transformers", "vllm"), help="short for engine=...")
    add("--data-dir", type=Path, metavar="DIR", help="local copies of the benchmarks")
    add("--run-dir", type=Path, metavar="DIR", help="default: runs/route-SUITE-TIMESTAMP")
    add("--resume", action="store_true", help="continue the evaluations in --run-dir")
    add("--json", type=Path, metavar="OUT", help="write the results there too")
    add("--quiet", action="store_true", help="no progress, only the result")
    return parser


SIDES = ("small", "large")


def route_command(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run what ``depo route`` was asked for; returns the exit status. Raises UserError for bad input."""
    check_json(options.json)
    run = estimator_of(options.estimator)
    sides = [options.small, options.large]

    def agree(small: Document, large: Document) -> None:
        check_same_problems(small, large)
        price_of(small, large, options.cost_ratio)

    (small, large), places, directory = evaluated(sides, SIDES, options, arguments, agree)
    price = price_of(small, large, options.cost_ratio)
    predicted = predicted_pass_rates(run, places[0], small["suite"]["sampling"]["n"])
    benchmarks = joined(small, large, predicted, (price.small, price.large))
    assert run.run is not None
    recipe = load_recipe(run.run / "recipe.yaml")
    names = told_apart([side["model"]["name"] for side in (small, large)], sides, SIDES)
    document = route_document(small, large, names, run, recipe, benchmarks, options.tau, price, arguments)
    show_route(document)
    directory = directory or new_directory(f"route-{small['suite']['name']}")
    for path in write_result(document, directory / "route.json", route_report):
        print(path)
    write_copy(document, options.json)
    return DONE
