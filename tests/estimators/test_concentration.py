"""The fitted concentration, against closed forms and synthetic groups of known spread."""

from __future__ import annotations

import math

import numpy as np
import pytest

from depo.estimators.depo import ConcentrationFit, beta_binomial_log_likelihood
from depo.estimators.moments import beta_outcomes


def test_the_likelihood_is_that_of_the_beta_binomial():
    for a, b in ((0.3, 2.0), (5.0, 5.0), (1e5, 3e5)):
        for k in range(9):
            expected = math.lgamma(a + k) + math.lgamma(b + 8 - k) - math.lgamma(a + b + 8)
            expected -= math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
            found = beta_binomial_log_likelihood(*np.array([[a], [b], [k], [8]], dtype=float))[0]
            assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("true_s", [0.4, 2.0, 20.0])
def test_the_fit_finds_the_spread_that_made_the_groups(true_s):
    rng = np.random.default_rng(1)
    mean_N = rng.uniform(0.1, 0.9, 1000)
    p_N = rng.beta(mean_N * true_s, (1 - mean_N) * true_s)
    fit = ConcentrationFit(1.0)
    fit.add(mean_N, np.ones(1000), rng.binomial(8, p_N).astype(float), np.full(1000, 8.0))
    assert fit.value == pytest.approx(true_s, rel=0.35)
    # What it is for: the predicted share of informative groups is that of new groups.
    informative, _, _ = beta_outcomes(mean_N * fit.value, (1 - mean_N) * fit.value, 8)
    k_N = rng.binomial(8, rng.beta(mean_N * true_s, (1 - mean_N) * true_s))
    assert informative.mean() == pytest.approx(((k_N > 0) & (k_N < 8)).mean(), abs=0.05)


def test_a_base_concentration_is_multiplied():
    rng = np.random.default_rng(2)
    mean_N, base_N = rng.uniform(0.2, 0.8, 1000), rng.uniform(1, 6, 1000)
    p_N = rng.beta(mean_N * 2 * base_N, (1 - mean_N) * 2 * base_N)
    fit = ConcentrationFit(1.0)
    fit.add(mean_N, base_N, rng.binomial(8, p_N).astype(float), np.full(1000, 8.0))
    assert fit.value == pytest.approx(2.0, rel=0.35)


def test_without_groups_it_is_the_initial_value_and_the_window_restores_it():
    fit = ConcentrationFit(3.0)
    assert fit.value == 3.0
    fit.add(np.array([0.5, 0.2]), np.ones(2), np.array([8.0, 0.0]), np.array([8.0, 8.0]))
    restored = ConcentrationFit(3.0)
    restored.restore(fit.window())
    assert restored.value == fit.value != 3.0
    restored.restore(np.zeros((0, 4)))
    assert restored.value == 3.0


def test_the_initial_value_must_be_positive():
    with pytest.raises(ValueError, match="must be positive"):
        ConcentrationFit(0.0)
