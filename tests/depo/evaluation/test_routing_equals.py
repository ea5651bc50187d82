"""Limits of a router's figures where every question comes out alike."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from depo.evaluation.cascade.measures import Questions, distances_of_equals, gain_bounds


def questions(small: list[float], large: list[float], worth: float | np.ndarray = 0.5) -> Questions:
    """``worth``: what the small model saves on a question, as a share of the large one's cost."""
    cost_N = np.linspace(20, 90, len(small))
    return Questions(np.array(small), np.array(large), cost_N * (1 - np.asarray(worth)), cost_N)


@pytest.mark.parametrize("n", [1, 5, 300])
def test_none_or_all_routed_has_the_exact_binomial_interval(n):
    one = questions([0.0] * n, [1.0] * n)
    for count in (0, n):
        exact = binomtest(count, n).proportion_ci(0.95, method="exact")
        found = distances_of_equals(one, np.full(n, count > 0))
        value = count / n
        expected = (value - exact.low, exact.high - value)
        assert found["share"] == pytest.approx(expected)
        # Routed questions are wrong and the others right.
        assert found["accuracy"] == pytest.approx(expected[::-1])


def test_only_figures_without_any_spread_get_limits():
    informative_N = np.array([True, False, True])
    assert distances_of_equals(questions([0.0, 1.0, 0.5], [1.0, 0.0, 1.0]), informative_N) == {}
    assert set(distances_of_equals(questions([0.5, 0.5, 0.25], [0.5, 0.5, 0.25]), informative_N)) == {"gain"}
    assert set(distances_of_equals(questions([0.0] * 3, [0.0] * 3), informative_N)) == {"accuracy", "gain"}
    one = questions([0.0, 1.0, 0.5], [1.0, 0.0, 1.0], np.array([0.1, 0.2, 0.3]))
    assert set(distances_of_equals(one, np.zeros(3, bool))) == {"share", "saved", "gain"}
    assert set(distances_of_equals(one, np.ones(3, bool))) == {"share", "gain"}


def test_what_could_be_saved_reaches_from_the_worst_question_seen_to_all_of_its_cost():
    q = 1 - 0.025 ** (1 / 4)
    none = np.zeros(4, bool)
    one = questions([1.0] * 4, [1.0] * 4, np.array([0.2, 0.4, -0.5, 0.1]))
    assert distances_of_equals(one, none)["saved"] == pytest.approx((0.5 * q, q))
    # At 0.9 of the cost for each: saved 0.1, and rounding makes no difference between questions.
    assert distances_of_equals(questions([1.0] * 4, [1.0] * 4, 0.1), ~none)["saved"] == pytest.approx(
        (0.1 * q, 0.9 * q)
    )


def test_gain_of_one_question_is_bounded_by_what_it_can_be():
    rng = np.random.default_rng(1)
    for share in (0.0, 0.25, 1.0):
        for ahead in (-1.0, -0.3, 0.0, 1.0):
            low, high = gain_bounds(share, ahead)
            tried = (rng.integers(0, 2, 5000) - share) * (rng.uniform(-1, 1, 5000) - ahead)
            assert (low <= tried.min(), tried.max() <= high) == (True, True)
            assert (tried.min(), tried.max()) == pytest.approx((low, high), abs=0.02), "and reached"


def test_the_interval_of_equals_covers_the_truth_as_often_as_it_says():
    """A share of the questions is of another kind, as far off as can be; the truth is
    counted over the whole population, the interval comes from eight alike questions of the first kind."""
    n, trials = 8, 4000
    rng = np.random.default_rng(2)
    kinds = [(r, small, large) for r in (0, 1) for small in (0.0, 0.4, 1.0) for large in (0.0, 1.0)]
    for seen in kinds:
        for other in kinds:
            for share in (0.1, 0.3, 0.37, 0.6):
                truth = population(seen, other, share)
                one = questions([seen[1]] * n, [seen[2]] * n)
                found = distances_of_equals(one, np.full(n, bool(seen[0])))
                values = {"share": seen[0], "accuracy": seen[1] if seen[0] else seen[2], "gain": 0.0}
                alike = ((rng.random((trials, n)) < share).sum(axis=1) == 0).mean()
                for name, value in values.items():
                    below, above = found[name]
                    missed = alike * (not value - below - 1e-12 <= truth[name] <= value + above + 1e-12)
                    assert missed <= 0.035, (name, seen, other, share)


def population(seen: tuple, other: tuple, share: float) -> dict[str, float]:
    r, small, large = (np.array(pair, dtype=float) for pair in zip(seen, other, strict=True))
    weight = np.array([1 - share, share])
    routed = float(weight @ r)
    accuracy = float(weight @ np.where(r > 0, small, large))
    random = (1 - routed) * float(weight @ large) + routed * float(weight @ small)
    return {"share": routed, "accuracy": accuracy, "gain": accuracy - random}
