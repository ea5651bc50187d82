"""``depo route`` from parsed options to table, JSON, Markdown and plot."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from depo.bench.report import write_result
from depo.directories import new_directory
from depo.evaluation.command import check_json, evaluated, write_copy
from depo.evaluation.comparison import Document
from depo.evaluation.names import told_apart
from depo.evaluation.route.cost import price_of
from depo.evaluation.route.inputs import check_same_problems, estimator_of, joined, predicted_pass_rates
from depo.evaluation.route.report import show_route
from depo.evaluation.route.results import route_document
from depo.failures import DONE
from depo.recipe import load_recipe

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
    for path in write_result(document, directory / "route.json"):
        print(path)
    write_copy(document, options.json)
    return DONE
