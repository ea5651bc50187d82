"""Limits of a router's figures where all questions come out alike, so that resampling them tells nothing.

Sent to the small model were 0 of 5 questions: no resample sends any, and a bootstrap interval would say that
none ever will be. As for accuracies (`depo.evaluation.measures.intervals`) the limits are Clopper and
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

import numpy as np

from depo.evaluation.measures.intervals import SHARE, Bounds, all_alike, limits_of_equals
from depo.evaluation.measures.routing import Questions

FIGURES = ("share", "accuracy", "saved", "gain")
"""In the order of `depo.evaluation.measures.routing.figures`. ``saved``: share of the large model's cost.
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
