"""A cascade's figures as a document: at each threshold with intervals, and the curves over all thresholds.

N problems of a benchmark, R resamples. A figure with an interval is a list [mean, low, high]; a curve is a
list of [τ, share sent to the small model, accuracy, cost saved]; τ is null where all questions go there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from depo.evaluation.cascade.inputs import CascadeBenchmark, Price
from depo.evaluation.cascade.measures import (
    FIGURES,
    Point,
    Questions,
    curve,
    distances_of_equals,
    figures,
    random_line,
    sent_to_small,
)
from depo.evaluation.comparison import unlike
from depo.evaluation.estimator_check import unseen
from depo.evaluation.model import Target
from depo.recipe.schema import Recipe
from depo.report.provenance import provenance
from depo.report.statistics import limits, resample_weights, with_equals

Document = Mapping[str, Any]


ALL_LARGE = ("share", "saved", "gain")
ALL_SMALL = ("share", "gain")
"""What is so by definition, not by the questions asked, where one model gets all of them."""

HIGHEST = 1.0
"""No pass rate lies above this threshold."""


def cascade_document(
    small: Document,
    large: Document,
    names: tuple[str, str],
    run: Target,
    recipe: Recipe,
    benchmarks: Sequence[CascadeBenchmark],
    taus: Sequence[float],
    price: Price,
    arguments: Sequence[str],
) -> dict[str, Any]:
    """``names`` are what the small and the large model are called in the report, ``recipe`` the run's."""
    seed, resamples = small["suite"]["seed"], small["suite"]["resamples"]
    assert run.checkpoint is not None
    return {
        "kind": "route",
        "schema_version": 1,
        "small": {**small["model"], "shown": names[0]},
        "large": {**large["model"], "shown": names[1]},
        "estimator": {
            "run": run.name,
            "checkpoint": run.checkpoint.name,
            "type": recipe.estimator.type,
            "without": unseen(recipe),
        },
        "suite": small["suite"]["name"],
        "samples": {"small": small["suite"]["sampling"]["n"], "large": large["suite"]["sampling"]["n"]},
        "resamples": resamples,
        "unlike": unlike(small["suite"], large["suite"], list(small["benchmarks"])),
        "cost": price.described(),
        "taus": list(taus),
        "benchmarks": {
            one.name: {
                "problems": len(one.predicted_N),
                "left_out": one.left_out,
                **measured([one], taus, resamples, seed),
            }
            for one in benchmarks
        },
        "mean": measured(benchmarks, taus, resamples, seed),
        "provenance": provenance(arguments, [seed]),
    }


def measured(
    benchmarks: Sequence[CascadeBenchmark], taus: Sequence[float], resamples: int, seed: int
) -> dict[str, Any]:
    """Each model alone, and the cascade at each threshold by estimator and by oracle, with intervals; and the
    curves. Over several benchmarks the plain mean."""
    questions = [one.questions for one in benchmarks]
    weights = [
        resample_weights(len(one.predicted_N), resamples, seed, one.name).astype(np.float64)
        for one in benchmarks
    ]
    scores = {
        "estimator": [one.predicted_N for one in benchmarks],
        # What a perfect estimate of the small model's pass rate would do, as far as its samples tell.
        "oracle": [one.questions.small_N for one in benchmarks],
    }
    none, everything = (
        interval_of(questions, [np.full(len(one.small_N), value) for one in questions], weights, assigned)
        for value, assigned in ((False, ALL_LARGE), (True, ALL_SMALL))
    )
    return {
        "large": none,
        "small": everything,
        "routers": {
            name: [
                {
                    "tau": tau,
                    **interval_of(
                        questions,
                        [sent_to_small(score_N, tau) for score_N in score_BN],
                        weights,
                        ALL_LARGE if tau >= HIGHEST else (),
                    ),
                }
                for tau in taus
            ]
            for name, score_BN in scores.items()
        },
        "curves": {
            **{name: [row(tau, point) for tau, point in curve(questions, s)] for name, s in scores.items()},
            "random": [row(None, point) for point in random_line(questions)],
        },
    }


def interval_of(
    questions: Sequence[Questions],
    sent_BN: Sequence[np.ndarray],
    weights: Sequence[np.ndarray],
    assigned: Sequence[str] = (),
) -> dict[str, Any]:
    """Every figure of one way to send questions as [mean, low, high], each benchmark resampled on its own.
    ``clopper_pearson`` names the figures in which all questions of a benchmark come out alike; ``assigned``
    are figures that no other questions could change."""
    whole, resampled, equals = [], [], []
    for one, sent_N, weights_RN in zip(questions, sent_BN, weights, strict=True):
        whole.append(figures(one, sent_N, np.ones((1, len(sent_N)))))
        resampled.append(figures(one, sent_N, weights_RN))
        equals.append(distances_of_equals(one, sent_N))
    found: dict[str, Any] = {"clopper_pearson": []}
    for i, name in enumerate(FIGURES):
        bootstrap = [
            float(np.mean([part[i][0] for part in whole])),
            *limits(np.mean([part[i] for part in resampled], axis=0)),
        ]
        alike = [] if name in assigned else [some[name] for some in equals if name in some]
        found[name] = with_equals(bootstrap, alike, len(questions))
        if alike:
            found["clopper_pearson"].append(name)
    return found


def row(tau: float | None, point: Point) -> list[float | None]:
    return [
        None if tau is None or math.isinf(tau) else tau,
        point.share,
        point.accuracy,
        point.saved,
    ]
