"""Weighted figures against resampling by hand, intervals against a known answer, and the time they take."""

import time

import numpy as np
import pytest

from depo.report.calibration import auroc, average_precision
from depo.report.statistics import interval, resample_prompts, weighted_mean, weighted_ranking


def clustered(prompts: int, visits: int, seed: int = 0, levels: int = 7):
    rng = np.random.default_rng(seed)
    prompt_M = np.repeat(np.arange(prompts), visits)
    scores_M = rng.integers(0, levels, size=prompts * visits) / levels  # with ties
    positive_M = (rng.random(prompts * visits) < scores_M).astype(float)
    return scores_M, positive_M, prompt_M


def test_weighted_figures_equal_those_of_a_sample_in_which_prompts_are_repeated():
    scores_M, positive_M, prompt_M = clustered(12, 5)
    weights_RN = resample_prompts(12, 40, seed=1)
    auroc_R, precision_R = weighted_ranking(scores_M, positive_M, prompt_M, weights_RN)
    mean_R = weighted_mean(scores_M, prompt_M, weights_RN)
    assert (weights_RN.sum(axis=1) == 12).all()
    for r, weights_N in enumerate(weights_RN):
        prompts = np.repeat(range(12), weights_N.astype(int))
        drawn = np.concatenate([np.flatnonzero(prompt_M == i) for i in prompts])
        assert auroc_R[r] == pytest.approx(auroc(scores_M[drawn], positive_M[drawn]))
        assert precision_R[r] == pytest.approx(average_precision(scores_M[drawn], positive_M[drawn]))
        assert mean_R[r] == pytest.approx(scores_M[drawn].mean())


def test_resamples_without_both_kinds_are_undefined_and_left_out_of_the_interval():
    prompt_M, scores_M, positive_M = np.array([0, 1]), np.array([0.9, 0.1]), np.array([1.0, 0.0])
    auroc_R, _ = weighted_ranking(scores_M, positive_M, prompt_M, np.array([[2, 0], [1, 1]], np.float32))
    assert np.isnan(auroc_R[0])
    assert interval(auroc_R) == [1.0, 1.0]
    assert interval(auroc_R[:1]) is None


def test_interval_follows_the_clusters_and_not_the_single_predictions():
    """Each prompt's visits are copies: the interval must be that of the prompts."""
    scores_M, positive_M, _ = clustered(60, 1, levels=50)
    weights_RN = resample_prompts(60, 500, seed=2)
    once = interval(weighted_ranking(scores_M, positive_M, np.arange(60), weights_RN)[0])
    copied = weighted_ranking(
        np.repeat(scores_M, 20), np.repeat(positive_M, 20), np.repeat(np.arange(60), 20), weights_RN
    )[0]
    assert interval(copied) == pytest.approx(once)


def test_interval_of_a_mean_agrees_with_the_normal_approximation():
    rng = np.random.default_rng(3)
    values = rng.normal(size=400)
    low, high = interval(weighted_mean(values, np.arange(400), resample_prompts(400, 1000, seed=4)))
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_a_thousand_resamples_of_a_training_trace_take_seconds():
    scores_M, positive_M, prompt_M = clustered(400, 44, levels=100_000)
    start = time.perf_counter()
    weighted_ranking(scores_M, positive_M, prompt_M, resample_prompts(400, 1000, seed=0))
    assert time.perf_counter() - start < 20
