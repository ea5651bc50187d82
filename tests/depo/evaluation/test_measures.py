"""pass@k and maj@k against enumeration of all subsets and hand-worked votes; coverage and its law."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from depo.evaluation.measures import (
    EXACT,
    coverage,
    drawn,
    exact,
    fit_power_law,
    log_spaced,
    maj_at_k,
    method,
    pass_at_k,
    pass_at_k_each,
)
from depo.report.statistics import resample_weights


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n):
    for correct in range(n + 1):
        samples = [True] * correct + [False] * (n - correct)
        for k in range(1, n + 1):
            subsets = list(combinations(samples, k))
            share = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(n, correct, k) == pytest.approx(share, abs=1e-12)


def test_pass_at_k_stays_exact_where_binomials_overflow():
    # C(100000, 50000) has 30,000 digits. One right sample of n: it is among k of n with probability k / n.
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5, abs=1e-9)
    # Against exact integer arithmetic.
    exact = 1 - math.comb(9_990, 300) / math.comb(10_000, 300)
    assert pass_at_k(10_000, 10, 300) == pytest.approx(exact, abs=1e-12)


def test_fewer_samples_than_k_give_no_figure():
    assert math.isnan(pass_at_k(3, 3, 4))
    values = pass_at_k_each(np.array([4, 2, 4]), np.array([1, 2, 4]), 3)
    assert values[0] == pytest.approx(0.75)
    assert np.isnan(values[1])
    assert values[2] == 1.0


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="correct 5"):
        pass_at_k(4, 5, 1)


def by_enumeration(right: int, wrong: list[int], abstain: int, k: int) -> float:
    """Every subset votes; ties are shared out; nobody voting is wrong."""
    answers = (
        ["right"] * right + [f"wrong {i}" for i, m in enumerate(wrong) for _ in range(m)] + [None] * abstain
    )
    total, subsets = 0.0, 0
    for subset in combinations(answers, k):
        subsets += 1
        votes = Counter(answer for answer in subset if answer is not None)
        top = [answer for answer, count in votes.items() if count == max(votes.values())]
        if "right" in top:
            total += 1 / len(top)
    return total / subsets


@pytest.mark.parametrize(
    ("right", "wrong", "abstain"),
    [
        (3, [2, 2, 1], 1),
        (1, [1, 1, 1], 0),
        (4, [5], 1),
        (2, [], 3),
        (3, [3, 3], 0),
        (0, [3], 2),
        (2, [4, 2], 2),
    ],
)
def test_maj_at_k_is_the_mean_over_all_subsets(right, wrong, abstain):
    n = right + sum(wrong) + abstain
    for k in range(1, n + 1):
        assert maj_at_k(right, wrong, abstain, k) == pytest.approx(
            by_enumeration(right, wrong, abstain, k), abs=1e-12
        )


def test_hand_worked_votes():
    assert maj_at_k(3, [2], 0, 5) == 1.0
    assert maj_at_k(2, [3], 0, 5) == 0.0
    assert maj_at_k(2, [2], 1, 5) == 0.5, "a tie of two is half right"
    assert maj_at_k(1, [1, 1], 0, 3) == pytest.approx(1 / 3)
    assert maj_at_k(0, [], 4, 4) == 0.0, "when all abstain, nothing is right"
    assert maj_at_k(1, [], 3, 4) == 1.0, "one answer beats any number of abstentions"
    assert maj_at_k(3, [1], 0, 1) == pytest.approx(0.75), "one sample is its own majority"
    assert math.isnan(maj_at_k(1, [1], 0, 3))


def test_the_order_of_classes_does_not_matter():
    assert maj_at_k(4, [1, 3, 2], 1, 5) == maj_at_k(4, [3, 2, 1], 1, 5)


def test_random_subsets_take_over_for_many_samples_and_agree():
    wrong = (12, *[2] * 10)
    reference = exact(20, wrong, 4, 9)
    assert drawn(20, wrong, 4, 9, seed=0, key="a") == pytest.approx(reference, abs=0.03)
    assert drawn(20, wrong, 4, 9, 0, "a") == drawn(20, wrong, 4, 9, 0, "a") != drawn(20, wrong, 4, 9, 0, "b")
    assert method(EXACT) == "exact"
    assert method(EXACT + 1).startswith("Monte Carlo")
    many = maj_at_k(EXACT, [EXACT], 0, 11)
    assert many == pytest.approx(0.5, abs=0.03), "symmetric classes win equally often"


def test_a_curve_that_follows_the_law_gives_its_parameters_back():
    k_K = np.array([1, 2, 4, 8, 16, 32])
    fit = fit_power_law(k_K, np.exp(-1.7 * k_K**-0.6))
    assert fit is not None
    assert (fit.a, fit.b, fit.rmse) == pytest.approx((1.7, 0.6, 0.0), abs=1e-5)
    assert fit(100) == pytest.approx(np.exp(-1.7 * 100**-0.6))


def test_the_curve_is_pass_at_k_and_extrapolates_with_an_error():
    rng = np.random.default_rng(0)
    # Pass rates Beta(b, 1/2): -log of mean (1-p)^k coverage falls like a power of k, as the law wants.
    rates_N = rng.beta(0.4, 1.5, 300)
    n_N, correct_N = np.full(300, 32), rng.binomial(32, rates_N)
    found = coverage(n_N, correct_N, [128], resample_weights(300, 60, 0, "b"))
    assert [row[0] for row in found.curve] == log_spaced(32).tolist()
    assert found.curve[0][1] == pytest.approx(correct_N.mean() / 32)
    assert found.curve[-1][1] == pytest.approx((correct_N > 0).mean())
    (k, value, low, high), truth = found.extrapolated[0], (1 - (1 - rates_N) ** 128).mean()
    assert k == 128
    assert low < value < high
    assert value == pytest.approx(truth, abs=0.05)


@pytest.mark.parametrize(
    ("n", "correct", "reason"),
    [(8, 0, "no problem was solved"), (8, 8, "coverage is 1"), (2, 1, "raise sampling.n")],
)
def test_where_there_is_no_law_it_says_why(n, correct, reason):
    found = coverage(np.full(5, n), np.full(5, correct), [80], resample_weights(5, 20, 0, "b"))
    assert found.fit is None
    assert found.extrapolated == []
    assert reason in found.why_not
