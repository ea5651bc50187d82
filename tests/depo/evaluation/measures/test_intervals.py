"""The bootstrap over problems."""

from __future__ import annotations

import numpy as np
import pytest

from depo.evaluation.measures.intervals import estimate, macro, paired, resample_weights, weighted_means


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
    assert estimate(np.array([1.0, np.nan, 1.0, 1.0]), weights_RN) == [1.0, 1.0, 1.0]
    assert estimate(np.full(4, np.nan), weights_RN) == [None, None, None]
    assert np.isnan(weighted_means(np.array([np.nan, 1.0]), np.array([[2.0, 0.0]]))).all()


def test_pairing_by_problem_takes_out_what_makes_problems_hard():
    rng = np.random.default_rng(2)
    difficulty = rng.uniform(0, 1, 200)
    first = {f"p{i}": d + 0.02 for i, d in enumerate(difficulty)}
    second = {f"p{i}": d for i, d in enumerate(difficulty)} | {"only here": 0.0}
    differences_N, weights_RN = paired(first, second, 500, 0, "b")
    middle, low, high = estimate(differences_N, weights_RN)
    assert len(differences_N) == 200
    assert (middle, low, high) == pytest.approx((0.02, 0.02, 0.02))


def test_the_mean_over_benchmarks_weighs_them_alike():
    small, large = np.array([1.0, 1.0]), np.zeros(100)
    weights = [resample_weights(2, 50, 0, "small"), resample_weights(100, 50, 0, "large")]
    assert macro([small, large], weights)[0] == 0.5
    assert macro([small, np.full(100, np.nan)], weights) == [None, None, None]
