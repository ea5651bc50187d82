"""How well the difficulty estimator of a training run predicts the pass rates that an evaluation measured.

The estimator was trained beside the policy on other problems, so this is its transfer: it has the problem's
text and nothing else to go by, not even what the policy itself makes of it, if it was shown that in training.
N problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import estimators
from depo.errors import UserError
from depo.evaluation.model import Target
from depo.evaluation.suite import LoadedBenchmark
from depo.files import load_state, read_json
from depo.recipe.loading import load_recipe
from depo.recipe.schema import Recipe
from depo.report.calibration import reliability, spearman
from estimators.base import Candidate, Context

BINS = 10


def check_estimator(
    target: Target,
    benchmarks: Sequence[LoadedBenchmark],
    found: Mapping[str, Mapping[str, Any]],
    n: int,
) -> dict[str, Any] | None:
    """Predicted against measured pass rates; None for a model that is not from a training run. ``why_not``
    says why a run's estimator could not be asked."""
    if target.run is None:
        return None
    if target.checkpoint is None:
        return {"why_not": "the run has no checkpoint that holds its estimator"}
    try:
        recipe = load_recipe(target.run / "recipe.yaml")
        reason = cannot_ask(recipe)
        if reason:
            return {"why_not": reason}
        predicted = predictions(target, recipe, benchmarks, n)
    except (
        UserError,
        ValueError,
        OSError,
    ) as error:  # an encoder that has moved: the samples are still worth it
        return {"why_not": f"the run's estimator cannot be loaded: {str(error).splitlines()[0]}"}
    measured = {
        name: np.array([p["correct"] / p["n"] if p["n"] else np.nan for p in one["each"]])
        for name, one in found.items()
    }
    everywhere = figures(np.concatenate([*predicted.values()]), np.concatenate([*measured.values()]))
    return {
        "type": recipe.estimator.type,
        "why_not": "",
        "without": unseen(recipe),
        **everywhere,
        "by_benchmark": {name: figures(predicted[name], measured[name]) for name in predicted},
    }


def cannot_ask(recipe: Recipe) -> str:
    kind = recipe.estimator.type
    if kind in ("uniform", "oracle"):
        return f"estimator {kind} predicts nothing about a text"
    return ""


def unseen(recipe: Recipe) -> str:
    """What the estimator had in training and has to do without here."""
    asked = recipe.prefill_probe or recipe.selection.answer_rescoring
    return "the prefill probe of a problem" if asked else ""


def predictions(
    target: Target, recipe: Recipe, benchmarks: Sequence[LoadedBenchmark], n: int
) -> dict[str, np.ndarray]:
    """Mean pass rate (N,) that the run's estimator expects of each problem, by benchmark."""
    assert target.checkpoint is not None
    estimator = estimators.build(recipe.estimator.model_dump())
    estimator.load_state_dict(load_state(target.checkpoint / "estimator"))
    state = read_json(target.checkpoint / "run.json")
    context = Context(n, state["step"] + 1, state["kl_travelled"])
    return {
        one.name: np.asarray(
            estimator.predict([Candidate(p.key, p.text, p.prior) for p in one.prompts], context).mean
        )
        for one in benchmarks
    }


def figures(predicted_N: np.ndarray, measured_N: np.ndarray) -> dict[str, Any]:
    """Mean absolute error, bias, rank correlation, and bins of equal mass; problems without a verdict are
    left out."""
    known_N = ~np.isnan(measured_N)
    predicted_N, measured_N = predicted_N[known_N], measured_N[known_N]
    if not len(predicted_N):
        return {"problems": 0, "mae": None, "bias": None, "spearman": None, "bins": []}
    order = spearman(predicted_N, measured_N)
    return {
        "problems": len(predicted_N),
        "mae": float(np.abs(predicted_N - measured_N).mean()),
        "bias": float((predicted_N - measured_N).mean()),
        "spearman": None if np.isnan(order) else order,
        "bins": reliability(predicted_N, measured_N, BINS),
    }
