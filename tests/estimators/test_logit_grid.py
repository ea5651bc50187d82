"""The grid's walk against its own generator, its likelihood against binomial formulas."""

import math

import numpy as np
import pytest

from estimators.logit_grid import SPACING, LogitGrid, normalised

GRID = LogitGrid(noise=0.0)
MIDDLE = len(GRID) // 2


def point(index):
    belief_M = np.zeros(len(GRID))
    belief_M[index] = 1.0
    return belief_M


def test_spreading_is_the_random_walk_of_its_jump_rates():
    """Brute force: a chain that jumps to either neighbour at the rate 1/(2 h²), in tiny Euler steps."""
    size, variance, steps = len(GRID), 0.7, 20_000
    jump_MM = np.zeros((size, size))
    for i in range(size - 1):
        jump_MM[i, i + 1] = jump_MM[i + 1, i] = 1 / (2 * SPACING**2)
    jump_MM -= np.diag(jump_MM.sum(axis=1))
    one_step_MM = np.eye(size) + jump_MM * variance / steps
    walked_MM = np.linalg.matrix_power(one_step_MM, steps)
    spread_MM = GRID.spread(np.eye(size), GRID.decay(variance))
    np.testing.assert_allclose(spread_MM, walked_MM, atol=1e-4)


@pytest.mark.parametrize("variance", [0.001, 0.1, 1.0])
def test_the_walk_has_the_variance_asked_for_and_no_drift(variance):
    spread_M = GRID.spread(point(MIDDLE)[None], GRID.decay(variance))[0]
    mean = spread_M @ GRID.points_M
    assert spread_M.sum() == pytest.approx(1.0, abs=1e-12)
    assert mean == pytest.approx(GRID.points_M[MIDDLE], abs=1e-9)
    assert spread_M @ (GRID.points_M - mean) ** 2 == pytest.approx(variance, rel=1e-6)


def test_without_time_nothing_spreads():
    belief_NM = normalised(np.random.default_rng(0).random((5, len(GRID))))
    np.testing.assert_allclose(GRID.spread(belief_NM, GRID.decay(0.0)), belief_NM, atol=1e-14)


def test_two_walks_one_after_the_other_are_one_long_walk():
    belief_NM = normalised(np.random.default_rng(1).random((3, len(GRID))))
    twice = GRID.spread(GRID.spread(belief_NM, GRID.decay(0.2)), GRID.decay(0.5))
    np.testing.assert_allclose(twice, GRID.spread(belief_NM, GRID.decay(0.7)), atol=1e-12)


def test_likelihood_is_the_binomials_up_to_a_factor():
    shift = 0.4
    likelihood_NM = GRID.likelihood(np.array([0, 3, 8]), np.array([8, 8, 8]), shift)
    for row_M, k in zip(likelihood_NM, [0, 3, 8], strict=True):
        p = [1 / (1 + math.exp(-(x + shift))) for x in GRID.points_M]
        expected = np.array([math.comb(8, k) * q**k * (1 - q) ** (8 - k) for q in p])
        np.testing.assert_allclose(row_M / row_M.sum(), expected / expected.sum(), rtol=1e-10)


def test_noise_bounds_how_much_one_verdict_can_say():
    noisy = LogitGrid(noise=0.01)
    wrong_M = noisy.likelihood(np.array([1]), np.array([1]))[0]
    assert wrong_M.max() / wrong_M.min() < 0.99 / 0.01 * 1.001
    with pytest.raises(ValueError, match="noise"):
        LogitGrid(noise=0.5)


def test_draws_follow_the_belief():
    belief_M = normalised(GRID.likelihood(np.array([3]), np.array([10]))[0])
    drawn_N = GRID.draw(np.tile(belief_M, (40_000, 1)), np.random.default_rng(0))
    mean, sd = (
        belief_M @ GRID.points_M,
        math.sqrt(belief_M @ GRID.points_M**2 - (belief_M @ GRID.points_M) ** 2),
    )
    assert drawn_N.mean() == pytest.approx(mean, abs=4 * sd / 200)
    # Anywhere in a cell, not only at its middle: the variance of a uniform draw comes on top.
    assert drawn_N.std() == pytest.approx(math.sqrt(sd**2 + SPACING**2 / 12), rel=0.02)
