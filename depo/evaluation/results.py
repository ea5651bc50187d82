"""From verified samples to figures: everything that a report says about an evaluation, as JSON values.

Among it, how well the difficulty estimator of a training run predicts the pass rates that were measured. It
was trained beside the policy on other problems, so this is its transfer: it has the problem's text and
nothing else to go by, not even what the policy itself makes of it, if it was shown that in training.

N problems, R resamples. A figure with an interval is a list [mean, low, high].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from depo import estimators
from depo.errors import UserError
from depo.estimators.base import Candidate, Context
from depo.evaluation.answers import Votes, vote_rule
from depo.evaluation.evaluator import LoadedBenchmark, Row
from depo.evaluation.measures import coverage, maj_at_k, method, pass_at_k, pass_at_k_each, share
from depo.evaluation.model import Target
from depo.files import load_state, read_json
from depo.recipe.loading import load_recipe
from depo.recipe.schema import Recipe
from depo.recipe.schema.evaluation import Suite
from depo.report.calibration import reliability, spearman
from depo.report.statistics import all_alike, estimate, macro, resample_weights

SCHEMA_VERSION = 1
MOST_WITHOUT = 0.01
"""Share of the problems that the coverage curve may leave out."""

Problem = Mapping[str, Any]


def problem_figures(key: str, rows: Sequence[Row], wrong_classes: Sequence[int] | None) -> dict[str, Any]:
    """What is kept of one problem. ``samples`` were drawn, ``n`` of them have a verdict, ``correct`` of these
    are right; ``classes`` are the sizes of the classes of wrong answers (None where there is no vote)."""
    scorable = [row for row in rows if row["correct"] is not None]
    tokens = [row["tokens"] for row in rows]
    return {
        "key": key,
        "samples": len(rows),
        "n": len(scorable),
        "correct": sum(row["correct"] for row in scorable),
        "unparseable": sum(row["unparseable"] for row in scorable),
        "truncated": sum(row["finish_reason"] == "length" for row in rows),
        "tokens": float(np.mean(tokens)) if tokens else 0.0,
        "classes": None if wrong_classes is None else list(wrong_classes),
    }


def figures(benchmark: LoadedBenchmark, rows: Sequence[Row], suite: Suite, votes: Votes) -> dict[str, Any]:
    """The figures of one benchmark from its samples, with those of each problem under ``each``."""
    by_key: dict[str, list[Row]] = {prompt.key: [] for prompt in benchmark.prompts}
    for row in rows:
        by_key[row["key"]].append(row)
    rule = vote_rule(benchmark.reward)
    classes = None if rule is None else votes.classes(rule, by_key)
    each = [
        problem_figures(key, some, None if classes is None else classes[key]) for key, some in by_key.items()
    ]
    return {
        "rows": benchmark.rows,
        "problems": len(each),
        "samples": len(rows),
        "unscorable": sum(row["correct"] is None for row in rows),
        "vote": rule,
        "maj_method": method(suite.sampling.n) if rule is not None else None,
        **measured(each, benchmark.name, suite.ks, suite.extrapolated_ks, suite.resamples, suite.seed),
        "tokens": lengths(rows),
        "each": each,
    }


def measured(
    each: Sequence[Problem], benchmark: str, ks: Sequence[int], beyond: list[int], resamples: int, seed: int
) -> dict[str, Any]:
    """Means over problems with their intervals; ``clopper_pearson`` names the measures on which all problems
    are alike, where the bootstrap has nothing to say (see `depo.report.statistics`). A problem
    with fewer scorable samples than k is left out of pass@k and maj@k, one without any out of the average;
    coverage goes up to the k that all but `MOST_WITHOUT` of the problems have. ``left_out`` counts them."""
    weights_RN = resample_weights(len(each), resamples, seed, benchmark)
    n_N = np.array([one["n"] for one in each])
    correct_N = np.array([one["correct"] for one in each])
    samples_N = np.array([one["samples"] for one in each])
    truncated_N = np.array([one["truncated"] for one in each])
    unparseable_N = np.array([one["unparseable"] for one in each])
    shares = {
        "avg": share(correct_N, n_N),
        "truncated": share(truncated_N, samples_N),
        "unparseable": share(unparseable_N, n_N),
    }
    passes = {k: pass_values(each, k) for k in ks}
    majorities = {k: maj_values(each, k, seed) for k in ks}
    votes = bool(each) and each[0]["classes"] is not None
    named = shares | {f"pass@{k}": values_N for k, values_N in passes.items()}
    if votes:
        named |= {f"maj@{k}": values_N for k, values_N in majorities.items()}
    # Coverage needs the same k for every problem: one that nearly all of them have.
    whole_N = n_N >= max(int(np.quantile(n_N, MOST_WITHOUT, method="lower")), 1) if len(n_N) else n_N
    return {
        **{name: estimate(values_N, weights_RN) for name, values_N in shares.items()},
        "pass": {str(k): estimate(values_N, weights_RN) for k, values_N in passes.items()},
        "maj": {str(k): estimate(values_N, weights_RN) for k, values_N in majorities.items()}
        if votes
        else None,
        "clopper_pearson": [name for name, values_N in named.items() if all_alike(values_N)],
        "mean_tokens": estimate(np.array([one["tokens"] for one in each]), weights_RN, bounds=None),
        "left_out": {"avg": int((n_N == 0).sum())}
        | {str(k): int((n_N < k).sum()) for k in ks}
        | {"coverage": int((~whole_N).sum()) if n_N.max(initial=0) > 1 else 0},
        "coverage": asdict(coverage(n_N[whole_N], correct_N[whole_N], beyond, weights_RN[:, whole_N]))
        if n_N.max(initial=0) > 1
        else None,
    }


def pass_values(each: Sequence[Problem], k: int) -> np.ndarray:
    """pass@k of each problem (N,), NaN where it has too few samples."""
    return pass_at_k_each(np.array([one["n"] for one in each]), np.array([one["correct"] for one in each]), k)


def maj_values(each: Sequence[Problem], k: int, seed: int) -> np.ndarray:
    """maj@k of each problem (N,), NaN where it has too few samples or no answers to vote for."""
    return np.array([maj_of(one, k, seed) for one in each])


def maj_of(one: Problem, k: int, seed: int) -> float:
    if one["classes"] is None:
        return math.nan
    abstain = one["n"] - one["correct"] - sum(one["classes"])
    return maj_at_k(one["correct"], one["classes"], abstain, k, seed, one["key"])


def pass_of(one: Problem, k: int) -> float:
    return pass_at_k(one["n"], one["correct"], k)


def avg_of(one: Problem) -> float:
    return one["correct"] / one["n"] if one["n"] else math.nan


def lengths(rows: Sequence[Row]) -> dict[str, Any]:
    """Completion lengths in tokens: quantiles over all samples, means of right and wrong ones, and a
    histogram for the plot."""
    tokens = np.array([row["tokens"] for row in rows])
    if not len(tokens):
        return {}
    edges = np.unique(np.round(np.linspace(0, max(int(tokens.max()), 1), 41)).astype(int))
    right = np.array([row["correct"] is True for row in rows])
    wrong = np.array([row["correct"] is False for row in rows])
    return {
        "total": int(tokens.sum()),
        "quantiles": {str(q): float(np.percentile(tokens, q)) for q in (5, 25, 50, 75, 95)},
        "mean_right": float(tokens[right].mean()) if right.any() else None,
        "mean_wrong": float(tokens[wrong].mean()) if wrong.any() else None,
        "edges": edges.tolist(),
        "right": np.histogram(tokens[right], edges)[0].tolist(),
        "wrong": np.histogram(tokens[wrong], edges)[0].tolist(),
    }


def means(benchmarks: Mapping[str, Mapping[str, Any]], suite: Suite) -> dict[str, Any]:
    """The plain mean over benchmarks, each resampled on its own: what a headline quotes."""
    weights = [
        resample_weights(one["problems"], suite.resamples, suite.seed, name)
        for name, one in benchmarks.items()
    ]
    each = [one["each"] for one in benchmarks.values()]
    votes = all(one["maj"] is not None for one in benchmarks.values())
    return {
        "avg": macro([np.array([avg_of(problem) for problem in some]) for some in each], weights),
        "pass": {str(k): macro([pass_values(some, k) for some in each], weights) for k in suite.ks},
        "maj": {str(k): macro([maj_values(some, k, suite.seed) for some in each], weights) for k in suite.ks}
        if votes
        else None,
    }


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
    everywhere = graded(np.concatenate([*predicted.values()]), np.concatenate([*measured.values()]))
    return {
        "type": recipe.estimator.type,
        "why_not": "",
        "without": unseen(recipe),
        **everywhere,
        "by_benchmark": {name: graded(predicted[name], measured[name]) for name in predicted},
    }


def cannot_ask(recipe: Recipe) -> str:
    kind = recipe.estimator.type
    if kind in ("uniform", "oracle"):
        return f"estimator {kind} predicts nothing about a text"
    return ""


def unseen(recipe: Recipe) -> str:
    """What the estimator had in training and has to do without here."""
    return "the prefill probe of a problem" if recipe.selection.prefill_probe else ""


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


def graded(predicted_N: np.ndarray, measured_N: np.ndarray) -> dict[str, Any]:
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
