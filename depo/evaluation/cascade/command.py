"""``depo route``: a cascade of two models, from options to table, JSON, Markdown and plot.

Importing this module imports nothing heavy.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from depo.errors import DONE
from depo.evaluation.command import add_suite_options, check_json, evaluated, write_copy
from depo.files import new_directory

if TYPE_CHECKING:
    from depo.evaluation.command import Document

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


def add_options(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "route",
        help="send easy questions to a small model: accuracy against cost",
        description="Accuracy and cost of a cascade: an estimator sends each question to one of two models.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--small", required=True, metavar="A", help="finished evaluation, model or run")
    add("--large", required=True, metavar="B", help="finished evaluation, model or run")
    add("--estimator", required=True, metavar="RUN", help="training run whose estimator decides")
    add("--tau", type=thresholds, default=[0.3, 0.5, 0.7, 0.75], metavar="T,...", help="thresholds")
    add("--cost-ratio", type=ratio, metavar="R", help="a large model's token costs R of the small one's")
    add_suite_options(parser, "runs/route-SUITE-TIMESTAMP")
    return parser


SIDES = ("small", "large")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run what ``depo route`` was asked for; returns the exit status. Raises UserError for bad input."""
    from depo.evaluation.cascade import inputs
    from depo.evaluation.cascade.figures import cascade_document
    from depo.evaluation.cascade.report import route_report, show_route
    from depo.evaluation.comparison import told_apart
    from depo.recipe.loading import load_recipe
    from depo.report.document import write_result

    check_json(options.json)
    trained = inputs.estimator_of(options.estimator)
    sides = [options.small, options.large]

    def agree(small: Document, large: Document) -> None:
        inputs.check_same_problems(small, large)
        inputs.price_of(small, large, options.cost_ratio)

    (small, large), places, directory = evaluated(sides, SIDES, options, arguments, agree)
    price = inputs.price_of(small, large, options.cost_ratio)
    predicted = inputs.predicted_pass_rates(trained, places[0], small["suite"]["sampling"]["n"])
    benchmarks = inputs.joined(small, large, predicted, (price.small, price.large))
    assert trained.run is not None
    recipe = load_recipe(trained.run / "recipe.yaml")
    names = told_apart([side["model"]["name"] for side in (small, large)], sides, SIDES)
    document = cascade_document(
        small, large, names, trained, recipe, benchmarks, options.tau, price, arguments
    )
    show_route(document)
    directory = directory or new_directory(f"route-{small['suite']['name']}")
    for path in write_result(document, directory / "route.json", route_report):
        print(path)
    write_copy(document, options.json)
    return DONE
