"""The coverage curve and its law."""

from __future__ import annotations

import numpy as np
import pytest

from depo.evaluation.measures import coverage, fit_power_law, log_spaced
from depo.report.statistics import resample_weights


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
