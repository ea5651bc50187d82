"""What a cascade of two models achieves: questions scored above τ go to the small one, the rest to the other.

Figures are means over questions, and plain means over benchmarks where there are several. A question's part
in each of them depends on which model it goes to and on nothing else. The curve over all τ is therefore a
running sum over the questions in the order of their scores. A random rule sends a share q of all questions to
the small model, whatever they are: in expectation every figure is (1 − q) large + q small, a straight line.

Where all questions come out alike, resampling them tells nothing. If 0 of 5 questions go to the small model,
no resample sends any, and a bootstrap interval would say that none ever will be sent. As for accuracies
(`depo.report.statistics`) the limits are Clopper and Pearson's there: up to q = 1 − 0.025^(1/N) of all
questions may be of another kind, and what a figure can come to follows from what such a question could do.
With r = 1 for a question that goes to the small model and 0 otherwise, a the small model's accuracy less the
large one's, s the cost saved as a share of the large one's:

    share      mean of r                              a question: 0 to 1
    accuracy   mean over the model it went to         0 to 1
    saved      mean of r s, weighted by cost          the worst s that was seen (or 0) to 1, all of its cost
    gain       mean of (r − mean r) (a − mean a)      r either way, a from −1 to 1

``saved`` takes the unseen questions to cost as much as the seen ones.

In the document a figure with an interval is a list [mean, low, high]; a curve is a list of [τ, share sent to
the small model, accuracy, cost saved]; τ is null where all questions go there.

N questions of a benchmark, R resamples, T distinct scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from depo.evaluation.comparison import unlike
from depo.evaluation.model import Target
from depo.evaluation.results import unseen
from depo.recipe.schema import Recipe
from depo.report.provenance import provenance
from depo.report.statistics import (
    SHARE,
    Bounds,
    all_alike,
    limits,
    limits_of_equals,
    resample_weights,
    with_equals,
)


@dataclass(frozen=True, slots=True)
class Questions:
    """A benchmark's questions (N,) with both models' accuracy on each, and what each would cost."""

    small_N: np.ndarray
    large_N: np.ndarray
    small_cost_N: np.ndarray
    """Any unit, the same for both models; ``large_cost_N`` is positive."""
    large_cost_N: np.ndarray


@dataclass(frozen=True, slots=True)
class CascadeBenchmark:
    """A benchmark's questions with the estimator's predicted pass rate of each, (N,). ``left_out`` counts
    problems that one of the models has no verdict on."""

    name: str
    questions: Questions
    predicted_N: np.ndarray
    left_out: int


@dataclass(frozen=True, slots=True)
class Price:
    """Of one completion token of each model; ``source`` says where it is from."""

    small: float
    large: float
    source: str

    def described(self) -> dict[str, Any]:
        return {
            "small": self.small,
            "large": self.large,
            "ratio": self.large / self.small,
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class Point:
    """What a cascade achieves. ``saved`` is the share of the cost of asking the large model alone; negative
    where the small one costs more."""

    share: float
    accuracy: float
    saved: float


def sent_to_small(score_N: np.ndarray, tau: float) -> np.ndarray:
    """Which questions go to the small model (N,): those whose score is above τ, not at it."""
    return score_N > tau


def at(benchmarks: Sequence[Questions], sent_BN: Sequence[np.ndarray]) -> Point:
    """The plain mean over benchmarks of what each gets; ``sent_BN``: which questions go to the small model, a
    boolean (N,) for each benchmark."""
    rows = [
        figures(one, sent_N, np.ones((1, len(sent_N))))
        for one, sent_N in zip(benchmarks, sent_BN, strict=True)
    ]
    share, accuracy, saved, _ = (float(np.mean([row[i] for row in rows])) for i in range(4))
    return Point(share, accuracy, saved)


def figures(one: Questions, sent_N: np.ndarray, weights_RN: np.ndarray) -> tuple[np.ndarray, ...]:
    """Share sent to the small model, accuracy, cost saved, and accuracy above the random rule's at the same
    share, each (R,) with one entry for each weighting of the questions."""
    total_R = weights_RN.sum(axis=1)
    ahead_N = one.small_N - one.large_N
    share_R = weights_RN @ sent_N.astype(float) / total_R
    accuracy_R = weights_RN @ np.where(sent_N, one.small_N, one.large_N) / total_R
    cost_R = weights_RN @ np.where(sent_N, one.small_cost_N, one.large_cost_N)
    saved_R = 1 - cost_R / (weights_RN @ one.large_cost_N)
    # accuracy − ((1 − share) large + share small), where what does not depend on ``sent_N`` cancels.
    gain_R = (weights_RN @ (sent_N * ahead_N) - share_R * (weights_RN @ ahead_N)) / total_R
    return share_R, accuracy_R, saved_R, gain_R


def curve(benchmarks: Sequence[Questions], score_BN: Sequence[np.ndarray]) -> list[tuple[float, Point]]:
    """What every threshold brings about, as (τ, point): from none to the small model (τ the
    highest score) to all (τ = −∞), T + 1 points. Questions of one score go together."""
    share_N = np.concatenate([np.full(len(one.small_N), 1 / len(one.small_N)) for one in benchmarks])
    gain_N = share_N * np.concatenate([one.small_N - one.large_N for one in benchmarks])
    saved_N = np.concatenate(
        [(one.large_cost_N - one.small_cost_N) / one.large_cost_N.sum() for one in benchmarks]
    )
    score_N = np.concatenate(score_BN)
    order_N = np.argsort(-score_N, kind="stable")
    ordered_N = score_N[order_N]
    # A group of equal scores ends where the next score is smaller.
    ends_T = np.append(np.flatnonzero(np.diff(ordered_N)), len(ordered_N) - 1)
    taus = [ordered_N[0], *ordered_N[ends_T[:-1] + 1], -np.inf]
    share_T, gain_T, saved_T = (
        np.concatenate([[0.0], np.cumsum(part_N[order_N])[ends_T]]) / len(benchmarks)
        for part_N in (share_N, gain_N, saved_N)
    )
    all_large = float(np.mean([one.large_N.mean() for one in benchmarks]))
    return [
        (float(tau), Point(float(share), all_large + float(gain), float(saved)))
        for tau, share, gain, saved in zip(taus, share_T, gain_T, saved_T, strict=True)
    ]


def random_line(benchmarks: Sequence[Questions]) -> tuple[Point, Point]:
    """The ends of the random rule's line: all to the large model, all to the small one."""
    ends = [
        at(benchmarks, [np.full(len(one.small_N), all_small) for one in benchmarks])
        for all_small in (False, True)
    ]
    return ends[0], ends[1]


FIGURES = ("share", "accuracy", "saved", "gain")
"""In the order of `depo.evaluation.cascade.figures.figures`. ``saved``: share of the large model's cost.
``gain``: accuracy above a random rule's, same share."""

DIGITS = 12
"""Ratios of costs that agree so far are the same number, but for rounding."""


def distances_of_equals(one: Questions, sent_N: np.ndarray) -> dict[str, tuple[float, float]]:
    """How far the limits of each figure are below and above it, for those in which all questions of this
    benchmark are alike. ``sent_N``: which of them go to the small model, a boolean (N,)."""
    share_N = sent_N.astype(float)
    accuracy_N = np.where(sent_N, one.small_N, one.large_N)
    worth_N = np.round(1 - one.small_cost_N / one.large_cost_N, DIGITS)
    saved_N = share_N * worth_N
    ahead_N = one.small_N - one.large_N
    found = {}
    for name, values_N, bounds in (
        ("share", share_N, SHARE),
        ("accuracy", accuracy_N, SHARE),
        ("saved", saved_N, (min(0.0, float(worth_N.min())), 1.0)),
    ):
        if all_alike(values_N):
            found[name] = distances(float(values_N[0]), len(values_N), bounds)
    if all_alike(share_N) or all_alike(ahead_N):
        found["gain"] = distances(
            0.0, len(ahead_N), gain_bounds(float(share_N.mean()), float(ahead_N.mean()))
        )
    return found


def distances(value: float, questions: int, bounds: Bounds) -> tuple[float, float]:
    low, high = limits_of_equals(value, questions, bounds)
    return value - low, high - value


def gain_bounds(share: float, ahead: float) -> Bounds:
    """The least and the most of (r − share) (a − ahead) with r 0 or 1 and a between −1 and 1."""
    corners = [(r - share) * (a - ahead) for r in (0, 1) for a in (-1, 1)]
    return min(corners), max(corners)


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
