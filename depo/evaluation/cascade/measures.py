"""Two models and a router: what comes of sending questions scored above τ to the small model.

Figures are means over questions, and plain means over benchmarks where there are several. A question's part
in each of them depends on where it goes and on nothing else, so the curve over all τ is a running sum over
the questions in the order of their scores. The random router's is a straight line in closed form: it sends a
share q of all questions to the small model, whatever they are, so every figure is (1 − q) large + q small in
expectation.

N questions, R resamples, T distinct scores.

Limits of a router's figures where all questions come out alike, so that resampling them tells nothing.

Sent to the small model were 0 of 5 questions: no resample sends any, and a bootstrap interval would say that
none ever will be. As for accuracies (`depo.report.statistics`) the limits are Clopper and
Pearson's: up to q = 1 − 0.025^(1/N) of all questions may be of another kind, and what a figure can come to
follows from what such a question could do. With r the routing (0 or 1), a the small model's accuracy less the
large one's, s its cost saved as a share of the large one's:

    share      mean of r                              a question: 0 to 1
    accuracy   mean over the model it went to         0 to 1
    saved      mean of r s, weighted by cost          the worst s that was seen (or 0) to 1, all of its cost
    gain       mean of (r − mean r) (a − mean a)      r either way, a from −1 to 1

``saved`` takes the unseen questions to cost as much as the seen ones. N questions of a benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from depo.report.statistics import SHARE, Bounds, all_alike, limits_of_equals


@dataclass(frozen=True, slots=True)
class Questions:
    """A benchmark's questions (N,) with both models' accuracy on each, and what each would cost."""

    small_N: np.ndarray
    large_N: np.ndarray
    small_cost_N: np.ndarray
    """Any unit, the same for both models; ``large_cost_N`` is positive."""
    large_cost_N: np.ndarray


@dataclass(frozen=True, slots=True)
class Point:
    """What a router achieves. ``saved`` is the share of the cost of asking the large model alone; negative
    where the small one costs more."""

    share: float
    accuracy: float
    saved: float


def routed(score_N: np.ndarray, tau: float) -> np.ndarray:
    """Which questions go to the small model (N,): those whose score is above τ, not at it."""
    return score_N > tau


def at(benchmarks: Sequence[Questions], routed_BN: Sequence[np.ndarray]) -> Point:
    """The plain mean over benchmarks of what each gets from its routing, a boolean (N,) a benchmark."""
    rows = [
        figures(one, routed_N, np.ones((1, len(routed_N))))
        for one, routed_N in zip(benchmarks, routed_BN, strict=True)
    ]
    share, accuracy, saved, _ = (float(np.mean([row[i] for row in rows])) for i in range(4))
    return Point(share, accuracy, saved)


def figures(one: Questions, routed_N: np.ndarray, weights_RN: np.ndarray) -> tuple[np.ndarray, ...]:
    """Share routed, accuracy, cost saved, and accuracy above the random router's at the same share, each (R,)
    with one entry for each weighting of the questions."""
    total_R = weights_RN.sum(axis=1)
    ahead_N = one.small_N - one.large_N
    share_R = weights_RN @ routed_N.astype(float) / total_R
    accuracy_R = weights_RN @ np.where(routed_N, one.small_N, one.large_N) / total_R
    cost_R = weights_RN @ np.where(routed_N, one.small_cost_N, one.large_cost_N)
    saved_R = 1 - cost_R / (weights_RN @ one.large_cost_N)
    # accuracy − ((1 − share) large + share small), of which what does not depend on the routing cancels.
    gain_R = (weights_RN @ (routed_N * ahead_N) - share_R * (weights_RN @ ahead_N)) / total_R
    return share_R, accuracy_R, saved_R, gain_R


def curve(benchmarks: Sequence[Questions], score_BN: Sequence[np.ndarray]) -> list[tuple[float, Point]]:
    """Every routing that a threshold can bring about, as (τ, point): from none to the small model (τ the
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
    """The ends of the random router's line: all to the large model, all to the small one."""
    ends = [
        at(benchmarks, [np.full(len(one.small_N), all_small) for one in benchmarks])
        for all_small in (False, True)
    ]
    return ends[0], ends[1]


def random_at(benchmarks: Sequence[Questions], share: float) -> Point:
    """What the random router achieves in expectation when it sends ``share`` of the questions to the small
    model."""
    none, everything = random_line(benchmarks)
    return Point(
        share,
        (1 - share) * none.accuracy + share * everything.accuracy,
        share * everything.saved,
    )


FIGURES = ("share", "accuracy", "saved", "gain")
"""In the order of `depo.evaluation.cascade.measures.figures`. ``saved``: share of the large model's cost.
``gain``: accuracy above a random router's, same share."""


DIGITS = 12
"""Ratios of costs that agree so far are the same number, but for rounding."""


def distances_of_equals(one: Questions, routed_N: np.ndarray) -> dict[str, tuple[float, float]]:
    """How far the limits of each figure are below and above it, for those figures of a routing, a boolean
    (N,), in which all questions of this benchmark are alike."""
    share_N = routed_N.astype(float)
    accuracy_N = np.where(routed_N, one.small_N, one.large_N)
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
