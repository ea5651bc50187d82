"""Group outcome probabilities against exact fractions, enumeration and quadrature."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depo.estimators.moments import beta_estimates, beta_outcomes, informative_probability


def exact_beta_binomial(a: Fraction, b: Fraction, group_size: int) -> tuple[Fraction, Fraction, Fraction]:
    """(mixed, all wrong, all right) from Pólya's urn: every sequence of verdicts, added up one by one."""
    by_successes = [Fraction(0)] * (group_size + 1)
    for verdicts in product((False, True), repeat=group_size):
        probability, right, wrong = Fraction(1), a, b
        for verdict in verdicts:
            probability *= (right if verdict else wrong) / (right + wrong)
            right, wrong = (right + 1, wrong) if verdict else (right, wrong + 1)
        by_successes[sum(verdicts)] += probability
    return sum(by_successes[1:-1], Fraction(0)), by_successes[0], by_successes[-1]


@pytest.mark.parametrize("group_size", [1, 2, 3, 8])
@pytest.mark.parametrize(("a", "b"), [("1", "1"), ("1/4", "33/4"), ("9", "2"), ("1/1000", "5000")])
def test_outcomes_equal_exact_enumeration_of_all_verdicts(a: str, b: str, group_size: int) -> None:
    expected = exact_beta_binomial(Fraction(a), Fraction(b), group_size)
    if group_size == 1:
        expected = (Fraction(0), expected[1], expected[2])
    found = beta_outcomes(np.array([float(Fraction(a))]), np.array([float(Fraction(b))]), group_size)
    for value, fraction in zip(found, expected, strict=True):
        assert value[0] == pytest.approx(float(fraction), rel=1e-13, abs=0)


def test_flat_belief_has_its_closed_form() -> None:
    for group_size in (1, 2, 8, 64, 1000):
        informative, wrong, right = beta_outcomes(np.ones(1), np.ones(1), group_size)
        assert wrong[0] == pytest.approx(1 / (group_size + 1), rel=1e-11)
        assert right[0] == pytest.approx(1 / (group_size + 1), rel=1e-11)
        assert informative[0] == pytest.approx((group_size - 1) / (group_size + 1), rel=1e-11)


def test_outcomes_equal_quadrature_over_the_density() -> None:
    a, b, group_size = 3.7, 2.2, 8
    p = (np.arange(400_000) + 0.5) / 400_000
    density = p ** (a - 1) * (1 - p) ** (b - 1)
    density /= density.sum()
    informative, wrong, right = beta_outcomes(np.array([a]), np.array([b]), group_size)
    assert informative[0] == pytest.approx((density * informative_probability(p, group_size)).sum(), rel=1e-6)
    assert wrong[0] == pytest.approx((density * (1 - p) ** group_size).sum(), rel=1e-6)
    assert right[0] == pytest.approx((density * p**group_size).sum(), rel=1e-6)


def test_tiny_probabilities_keep_their_relative_accuracy() -> None:
    """E[1 − p^G − (1−p)^G] ≈ G·E[p] for p near 0: the difference as written would lose it to rounding."""
    a, b, group_size = 1e-12, 1e6, 8
    informative, wrong, _ = beta_outcomes(np.array([a]), np.array([b]), group_size)
    exact = exact_beta_binomial(Fraction(a), Fraction(b), group_size)[0]
    assert informative[0] == pytest.approx(float(exact), rel=1e-12, abs=0)
    assert 0 < informative[0] < 1e-16 < wrong[0]
    p = 1e-20
    assert informative_probability(np.array([p]), group_size)[0] == pytest.approx(
        group_size * p, rel=1e-12, abs=0
    )


def test_huge_groups_and_counts_stay_finite_and_consistent() -> None:
    a, b = np.array([0.5, 1e9, 1e12, 1e-300]), np.array([1e9, 0.5, 1e12, 1.0])
    informative, wrong, right = beta_outcomes(a, b, 4096)
    assert np.isfinite([informative, wrong, right]).all()
    np.testing.assert_allclose(informative + wrong + right, 1, rtol=1e-10)


@given(
    a=st.floats(1e-3, 1e6),
    b=st.floats(1e-3, 1e6),
    group_size=st.integers(1, 64),
)
def test_probabilities_sum_to_one_and_do_not_depend_on_which_verdict_is_called_right(
    a: float, b: float, group_size: int
) -> None:
    informative, wrong, right = beta_outcomes(np.array([a]), np.array([b]), group_size)
    if group_size == 1:
        assert informative[0] == 0
    assert informative[0] + wrong[0] + right[0] == pytest.approx(1, rel=1e-9)
    mirrored = beta_outcomes(np.array([b]), np.array([a]), group_size)
    assert [informative[0], wrong[0], right[0]] == pytest.approx(
        [mirrored[0][0], mirrored[2][0], mirrored[1][0]]
    )


def test_known_pass_rates_equal_the_definition() -> None:
    p = np.linspace(0, 1, 101)
    for group_size in (1, 2, 5, 16):
        expected = 1 - p**group_size - (1 - p) ** group_size
        np.testing.assert_allclose(
            informative_probability(p, group_size), np.clip(expected, 0, 1), atol=1e-14
        )


def test_estimates_mean_and_sd_equal_the_draws() -> None:
    estimates = beta_estimates(np.array([3.0, 0.4]), np.array([1.0, 9.0]), 8)
    draws = np.stack([estimates.sample(np.random.default_rng(seed)) for seed in range(20_000)])
    np.testing.assert_allclose(draws.mean(0), estimates.mean, atol=0.005)
    np.testing.assert_allclose(draws.std(0), estimates.sd, atol=0.005)
    np.testing.assert_allclose(informative_probability(draws, 8).mean(0), estimates.p_informative, atol=0.01)


def test_draws_are_a_function_of_the_generator() -> None:
    estimates = beta_estimates(np.array([3.0]), np.array([1.0]), 8)
    assert estimates.sample(np.random.default_rng(5)) == estimates.sample(np.random.default_rng(5))


@pytest.mark.parametrize("group_size", [0, -1, 2.5, True])
def test_group_sizes_that_cannot_be_are_errors(group_size: object) -> None:
    with pytest.raises(ValueError, match="group size"):
        beta_outcomes(np.ones(1), np.ones(1), group_size)  # type: ignore[arg-type]


@pytest.mark.parametrize("p", [float("nan"), -0.1, 1.1])
def test_pass_rates_that_cannot_be_are_errors(p: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        informative_probability(np.array([p]), 8)


@pytest.mark.parametrize("a", [float("nan"), 0.0, float("inf")])
def test_beta_parameters_that_cannot_be_are_errors(a: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        beta_estimates(np.array([a]), np.ones(1), 8)
