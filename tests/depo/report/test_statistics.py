"""Intervals: closed forms against scipy and by hand, bootstraps against resampling by hand."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest

from depo.replay.full import interval
from depo.report.calibration import auroc, average_precision
from depo.report.statistics import (
    clustered_means,
    clustered_ranking,
    estimate,
    macro,
    paired,
    ratio_interval,
    resample_prompts,
    resample_weights,
    t_interval,
    weighted_means,
    wilson_interval,
)

# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (3, 10), (400, 1000), (7, 7)])
def test_the_interval_of_a_rate_is_wilsons(successes: int, trials: int):
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high))


def test_the_interval_of_a_mean_is_students():
    values = [0.3, 0.1, 0.4, 0.15]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert t_interval(values).to_json() == pytest.approx([np.mean(values), low, high])
    assert t_interval([0.5]).to_json() == [0.5, None, None]


def test_the_interval_of_a_ratio_is_symmetric_in_logarithms():
    found = ratio_interval([0.5, 0.8, 0.4])
    inverse = ratio_interval([1 / 0.5, 1 / 0.8, 1 / 0.4])
    assert found.mean == pytest.approx((0.5 * 0.8 * 0.4) ** (1 / 3))
    assert (1 / inverse.mean, 1 / inverse.high, 1 / inverse.low) == pytest.approx(
        (found.mean, found.low, found.high)
    )


# ---------------------------------------------------------------- bootstrap over problems


def test_resamples_are_keyed_and_draw_as_many_problems_as_there_are():
    weights_RN = resample_weights(20, 50, 7, "gsm8k")
    assert (weights_RN.sum(axis=1) == 20).all()
    assert np.array_equal(weights_RN, resample_weights(20, 50, 7, "gsm8k"))
    assert not np.array_equal(weights_RN, resample_weights(20, 50, 7, "math500"))


def test_the_interval_is_that_of_the_mean():
    values_N = np.random.default_rng(1).normal(0.5, 0.2, 400)
    middle, low, high = estimate(values_N, resample_weights(400, 2000, 0, "b"))
    error = values_N.std(ddof=1) / 20
    assert middle == pytest.approx(values_N.mean())
    assert (low, high) == pytest.approx(
        (middle - 1.96 * error, middle + 1.96 * error), abs=0.15 * error * 1.96
    )


def test_unknown_problems_are_left_out_and_nothing_known_is_nothing():
    weights_RN = resample_weights(4, 100, 0, "b")
    assert estimate(np.array([0.5, np.nan, 0.5, 0.5]), weights_RN, None) == [0.5, 0.5, 0.5]
    assert estimate(np.array([1.0, np.nan, 1.0, 1.0]), weights_RN)[0] == 1.0
    assert estimate(np.full(4, np.nan), weights_RN) == [None, None, None]
    assert np.isnan(weighted_means(np.array([np.nan, 1.0]), np.array([[2.0, 0.0]]))).all()


def test_pairing_by_problem_takes_out_what_makes_problems_hard():
    rng = np.random.default_rng(2)
    difficulty = rng.uniform(0, 1, 200)
    first = {f"p{i}": d + 0.02 for i, d in enumerate(difficulty)}
    second = {f"p{i}": d for i, d in enumerate(difficulty)} | {"only here": 0.0}
    differences_N, weights_RN = paired(first, second, 500, 0, "b")
    middle, low, high = estimate(differences_N, weights_RN, None)
    assert len(differences_N) == 200
    assert (middle, low, high) == pytest.approx((0.02, 0.02, 0.02))


def test_the_mean_over_benchmarks_weighs_them_alike():
    small, large = np.array([1.0, 1.0]), np.zeros(100)
    weights = [resample_weights(2, 50, 0, "small"), resample_weights(100, 50, 0, "large")]
    assert macro([small, large], weights)[0] == 0.5
    assert macro([small, np.full(100, np.nan)], weights) == [None, None, None]


@pytest.mark.parametrize("problems", [1, 5, 40, 1319])
def test_none_or_all_of_n_right_has_the_exact_binomial_interval(problems):
    weights_RN = resample_weights(problems, 10, 0, "b")
    for right in (0, problems):
        exact = binomtest(right, problems).proportion_ci(0.95, method="exact")
        found = estimate(np.full(problems, right / problems), weights_RN)
        assert found == pytest.approx([right / problems, exact.low, exact.high])
    one_sided = estimate(np.zeros(1319), resample_weights(1319, 10, 0, "b"))[2]
    assert one_sided == pytest.approx(3.69 / 1319, rel=0.01), "-ln(0.025) / N; one-sided it would be 3 / N"


def test_the_interval_of_equals_covers_the_truth_as_often_as_it_says():
    """Problems score v except for a share, whose scores are as far off as can be: the worst case."""
    rng = np.random.default_rng(3)
    problems, trials = 8, 4000
    for v, other in ((0.0, 1.0), (1.0, 0.0), (0.5, 1.0), (0.5, 0.0)):
        for share in (0.1, 0.3, 0.36, 0.38, 0.6):
            truth = v + share * (other - v)
            alike = (rng.random((trials, problems)) >= share).all(axis=1)
            middle, low, high = estimate(np.full(problems, v), np.empty((0, problems)))
            assert middle == v
            missed = alike.sum() * (not low <= truth <= high) / trials
            assert missed <= 0.035, (v, other, share)


def test_equal_differences_are_bounded_by_what_a_difference_can_be():
    middle, low, high = estimate(np.zeros(5), np.empty((0, 5)), (-1.0, 1.0))
    assert (middle, low, high) == pytest.approx((0.0, -0.5218, 0.5218), abs=1e-4)


def test_the_mean_over_benchmarks_does_not_forget_the_unsure_ones():
    noisy = np.random.default_rng(4).uniform(0, 1, 50)
    weights = [resample_weights(50, 1000, 0, "noisy"), resample_weights(5, 1000, 0, "alike")]
    alone = estimate(noisy, weights[0])
    middle, low, high = macro([noisy, np.zeros(5)], weights)
    assert middle == pytest.approx(alone[0] / 2)
    assert middle - low == pytest.approx((alone[0] - alone[1]) / 2), "nothing below zero to be unsure of"
    assert high - middle == pytest.approx(np.hypot((alone[2] - alone[0]) / 2, 0.5218 / 2), abs=1e-4)
    both = macro([np.zeros(5), np.zeros(5)], [weights[1], weights[1]])
    assert both == pytest.approx([0.0, 0.0, 0.5218 / np.sqrt(2)], abs=1e-4)


# ---------------------------------------------------------------- cluster bootstrap over prompts


def clustered(prompts: int, visits: int, seed: int = 0, levels: int = 7):
    rng = np.random.default_rng(seed)
    prompt_M = np.repeat(np.arange(prompts), visits)
    scores_M = rng.integers(0, levels, size=prompts * visits) / levels  # with ties
    positive_M = (rng.random(prompts * visits) < scores_M).astype(float)
    return scores_M, positive_M, prompt_M


def test_weighted_figures_equal_those_of_a_sample_in_which_prompts_are_repeated():
    scores_M, positive_M, prompt_M = clustered(12, 5)
    weights_RN = resample_prompts(12, 40, seed=1)
    auroc_R, precision_R = clustered_ranking(scores_M, positive_M, prompt_M, weights_RN)
    mean_R = clustered_means(scores_M, prompt_M, weights_RN)
    assert (weights_RN.sum(axis=1) == 12).all()
    for r, weights_N in enumerate(weights_RN):
        prompts = np.repeat(range(12), weights_N.astype(int))
        drawn = np.concatenate([np.flatnonzero(prompt_M == i) for i in prompts])
        assert auroc_R[r] == pytest.approx(auroc(scores_M[drawn], positive_M[drawn]))
        assert precision_R[r] == pytest.approx(average_precision(scores_M[drawn], positive_M[drawn]))
        assert mean_R[r] == pytest.approx(scores_M[drawn].mean())


def test_resamples_without_both_kinds_are_undefined_and_left_out_of_the_interval():
    prompt_M, scores_M, positive_M = np.array([0, 1]), np.array([0.9, 0.1]), np.array([1.0, 0.0])
    auroc_R, _ = clustered_ranking(scores_M, positive_M, prompt_M, np.array([[2, 0], [1, 1]], np.float32))
    assert np.isnan(auroc_R[0])
    assert interval(auroc_R) == [1.0, 1.0]
    assert interval(auroc_R[:1]) is None


def test_interval_follows_the_clusters_and_not_the_single_predictions():
    """Each prompt's visits are copies: the interval must be that of the prompts."""
    scores_M, positive_M, _ = clustered(60, 1, levels=50)
    weights_RN = resample_prompts(60, 500, seed=2)
    once = interval(clustered_ranking(scores_M, positive_M, np.arange(60), weights_RN)[0])
    copied = clustered_ranking(
        np.repeat(scores_M, 20), np.repeat(positive_M, 20), np.repeat(np.arange(60), 20), weights_RN
    )[0]
    assert interval(copied) == pytest.approx(once)


def test_interval_of_a_mean_agrees_with_the_normal_approximation():
    rng = np.random.default_rng(3)
    values = rng.normal(size=400)
    low, high = interval(clustered_means(values, np.arange(400), resample_prompts(400, 1000, seed=4)))
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_a_thousand_resamples_of_a_training_trace_take_seconds():
    scores_M, positive_M, prompt_M = clustered(400, 44, levels=100_000)
    start = time.perf_counter()
    clustered_ranking(scores_M, positive_M, prompt_M, resample_prompts(400, 1000, seed=0))
    assert time.perf_counter() - start < 20
