"""What a cascade is computed from: two evaluations, an estimator's predictions, and the price of a token.

Generating a token takes about two operations for every parameter it passes through, so the cost of a question
is its completion tokens times the model's active parameters. Prompts are left out: reading one is parallel,
cheap beside generation, and the same question for both. So is the estimator, which reads a question once.

N problems of a benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from depo.data import load_saved
from depo.errors import UserError
from depo.evaluation.cascade.figures import CascadeBenchmark, Price, Questions
from depo.evaluation.comparison import setting
from depo.evaluation.evaluator import LoadedBenchmark, problems_file
from depo.evaluation.model import Target
from depo.evaluation.results import avg_of, cannot_ask, predictions
from depo.files import latest_checkpoint
from depo.recipe.loading import load_recipe
from depo.recipe.suites import parse_suite

Document = Mapping[str, Any]


def price_of(small: Mapping[str, Any], large: Mapping[str, Any], cost_ratio: float | None) -> Price:
    """From ``--cost-ratio`` where it is given, else from the active parameters of the two evaluations. Raises
    UserError where neither is known."""
    if cost_ratio is not None:
        return Price(1.0, cost_ratio, "given as --cost-ratio")
    parameters = {}
    for side, document in (("small", small), ("large", large)):
        # Evaluations of before this was recorded lack the key.
        parameters[side] = document["model"].get("active_parameters")
        if parameters[side] is None:
            raise UserError(
                f"--{side} {document['model']['name']}: its active parameters are not known, so neither is "
                "its cost; give --cost-ratio R: what a token of the large model costs in tokens of the small"
            )
    return Price(float(parameters["small"]), float(parameters["large"]), "active parameters")


def estimator_of(run: str) -> Target:
    """The training run that ``--estimator`` names. Raises UserError when there is no estimator to ask."""
    directory = Path(run).expanduser()
    if not (directory / "recipe.yaml").is_file():
        raise UserError(f"--estimator {run}: not a training run (recipe.yaml is missing)")
    checkpoint = latest_checkpoint(directory / "checkpoints")
    if checkpoint is None or not (checkpoint / "estimator").is_dir():
        raise UserError(f"--estimator {run}: the run has no checkpoint that holds its estimator")
    reason = cannot_ask(load_recipe(directory / "recipe.yaml"))
    if reason:
        raise UserError(f"--estimator {run}: {reason}")
    return Target(directory.resolve().name, str(checkpoint / "policy"), directory, checkpoint)


def stored_problems(evaluation: Path) -> list[LoadedBenchmark]:
    """The problems that a finished evaluation asked."""
    suite, _ = parse_suite(evaluation / "suite.yaml")
    found = []
    for name in suite.benchmarks:
        path = problems_file(evaluation / "problems", name)
        if not path.is_file():
            raise UserError(f"{path}: missing; the estimator reads the problems' texts from there")
        found.append(LoadedBenchmark(name, load_saved(path), suite.judge(name)[1], ""))
    return found


def predicted_pass_rates(run: Target, evaluation: Path, n: int) -> dict[str, dict[str, float]]:
    """The pass rate that the run's estimator expects of every problem, by benchmark and key."""
    assert run.run is not None
    problems = stored_problems(evaluation)
    try:
        found = predictions(run, load_recipe(run.run / "recipe.yaml"), problems, n)
    except (OSError, ValueError) as error:  # an encoder that has moved, a state that does not fit
        raise UserError(f"--estimator {run.run}: cannot be loaded: {str(error).splitlines()[0]}") from error
    return {
        one.name: {p.key: float(v) for p, v in zip(one.prompts, found[one.name], strict=True)}
        for one in problems
    }


def joined(
    small: Document,
    large: Document,
    predicted: Mapping[str, Mapping[str, float]],
    price: tuple[float, float],
) -> list[CascadeBenchmark]:
    """Both evaluations and the predictions, problem by problem; ``price`` of a completion token of each.
    Raises UserError when a benchmark is left with no problem that both have a verdict on."""
    found = []
    for name, one in small["benchmarks"].items():
        other = {row["key"]: row for row in large["benchmarks"][name]["each"]}
        pairs = [(row, other[row["key"]]) for row in one["each"]]
        known = [(a, b) for a, b in pairs if a["n"] and b["n"]]
        if not known:
            raise UserError(f"{name}: no problem on which both models have a verdict")
        questions = Questions(
            np.array([avg_of(a) for a, _ in known]),
            np.array([avg_of(b) for _, b in known]),
            np.array([a["tokens"] for a, _ in known]) * price[0],
            np.array([b["tokens"] for _, b in known]) * price[1],
        )
        predicted_N = np.array([predicted[name][a["key"]] for a, _ in known])
        found.append(CascadeBenchmark(name, questions, predicted_N, len(pairs) - len(known)))
    return found


def check_same_problems(small: Document, large: Document) -> None:
    """Raise UserError unless both evaluations asked the same problems of the same suite, judged alike."""
    names = [document["suite"]["name"] for document in (small, large)]
    if names[0] != names[1]:
        raise UserError(f"--small and --large were evaluated on different suites: {names[0]} and {names[1]}")
    first, second = list(small["benchmarks"]), list(large["benchmarks"])
    if set(first) != set(second):
        raise UserError(
            f"--small and --large have different benchmarks: {', '.join(first)} and {', '.join(second)}"
        )
    for name in first:
        if setting(small["suite"], name, "reward") != setting(large["suite"], name, "reward"):
            raise UserError(f"{name}: --small and --large were judged by different rewards")
        keys = [{row["key"] for row in document["benchmarks"][name]["each"]} for document in (small, large)]
        if keys[0] != keys[1]:
            shared = len(keys[0] & keys[1])
            raise UserError(
                f"{name}: --small was asked {len(keys[0]):,} problems and --large {len(keys[1]):,}, "
                f"{shared:,} of them the same; evaluate both with the same source, limit and template"
            )
