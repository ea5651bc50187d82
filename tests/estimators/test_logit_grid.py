"""The grid's walk against its own generator, its likelihood against binomial formulas."""

import math

import numpy as np
import pytest

from estimators.logit_grid import SPACING, LogitGrid, normalised

NOISE = 1e-12
GRID = LogitGrid(noise=NOISE)
L = len(GRID.points_L)
MIDDLE = L // 2


def on_grid(belief_NL):
    """Nothing on *never*."""
    return np.column_stack([np.zeros(len(belief_NL)), belief_NL])


def random_beliefs(n, seed):
    return normalised(np.random.default_rng(seed).random((n, len(GRID))))


def test_spreading_is_the_random_walk_of_its_jump_rates():
    """Brute force: a chain that jumps to either neighbour at the rate 1/(2 h²), in tiny Euler steps."""
    size, variance, steps = L, 0.7, 20_000
    jump_MM = np.zeros((size, size))
    for i in range(size - 1):
        jump_MM[i, i + 1] = jump_MM[i + 1, i] = 1 / (2 * SPACING**2)
    jump_MM -= np.diag(jump_MM.sum(axis=1))
    one_step_MM = np.eye(size) + jump_MM * variance / steps
    walked_MM = np.linalg.matrix_power(one_step_MM, steps)
    spread_MM = GRID.spread(on_grid(np.eye(size)), GRID.decay(variance), 1.0)
    np.testing.assert_allclose(spread_MM[:, 1:], walked_MM, atol=1e-4)
    assert not spread_MM[:, 0].any()


@pytest.mark.parametrize("variance", [0.001, 0.1, 1.0])
def test_the_walk_has_the_variance_asked_for_and_no_drift(variance):
    spread_L = GRID.spread(on_grid(np.eye(L)[MIDDLE : MIDDLE + 1]), GRID.decay(variance), 1.0)[0, 1:]
    mean = spread_L @ GRID.points_L
    assert spread_L.sum() == pytest.approx(1.0, abs=1e-12)
    assert mean == pytest.approx(GRID.points_L[MIDDLE], abs=1e-9)
    assert spread_L @ (GRID.points_L - mean) ** 2 == pytest.approx(variance, rel=1e-6)


def test_without_time_nothing_spreads():
    belief_NM = random_beliefs(5, 0)
    np.testing.assert_allclose(GRID.spread(belief_NM, GRID.decay(0.0), 1.0), belief_NM, atol=1e-14)


def test_two_walks_one_after_the_other_are_one_long_walk():
    belief_NM = random_beliefs(3, 1)
    twice = GRID.spread(GRID.spread(belief_NM, GRID.decay(0.2), 1.0), GRID.decay(0.5), 1.0)
    np.testing.assert_allclose(twice, GRID.spread(belief_NM, GRID.decay(0.7), 1.0), atol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 4.0, 30.0])
def test_what_leaves_never_is_found_where_prompts_are_solved_now_and_then(shift):
    never_NM = np.eye(len(GRID))[:1]
    spread_M = GRID.spread(never_NM, GRID.decay(0.0), 0.9, shift)[0]
    assert spread_M[0] == pytest.approx(0.9)
    assert spread_M.sum() == pytest.approx(1.0)
    if shift < 10:  # else no grid point lies there any more
        rate = spread_M[1:] @ GRID.rates(shift)[1:] / 0.1
        assert 0.05 < rate < 0.15


def test_ability_moves_all_prompts_but_those_out_of_reach():
    np.testing.assert_allclose(GRID.rates(3.0)[1:], 1 / (1 + np.exp(-GRID.points_L - 3.0)), atol=1e-9)
    assert GRID.rates(30.0)[0] == GRID.rates(-30.0)[0] == NOISE


def test_likelihood_is_the_binomials_up_to_a_factor():
    shift = 0.4
    likelihood_NM = GRID.likelihood(np.array([0, 3, 8]), np.array([8, 8, 8]), shift)
    for row_M, k in zip(likelihood_NM, [0, 3, 8], strict=True):
        p = [NOISE] + [1 / (1 + math.exp(-(x + shift))) for x in GRID.points_L]
        expected = np.array([math.comb(8, k) * q**k * (1 - q) ** (8 - k) for q in p])
        np.testing.assert_allclose(row_M / row_M.sum(), expected / expected.sum(), rtol=1e-6)


def test_noise_bounds_how_much_one_verdict_can_say():
    noisy = LogitGrid(noise=0.01)
    wrong_M = noisy.likelihood(np.array([1]), np.array([1]))[0]
    assert wrong_M.max() / wrong_M.min() < 0.99 / 0.01 * 1.001
    with pytest.raises(ValueError, match="noise"):
        LogitGrid(noise=0.5)


def test_draws_follow_the_belief():
    """In logits, where a draw lies anywhere in its cell: the variance of a uniform draw comes on top."""
    shift = 0.7
    belief_M = normalised(GRID.likelihood(np.array([3]), np.array([10]))[0])
    belief_M[0] = 0.25
    belief_M[1:] *= 0.75 / belief_M[1:].sum()
    drawn_N = GRID.draw(np.tile(belief_M, (40_000, 1)), np.random.default_rng(0), shift)
    never_N = drawn_N <= NOISE
    assert never_N.mean() == pytest.approx(0.25, abs=0.01)
    logit_N = np.log(drawn_N[~never_N] / (1 - drawn_N[~never_N]))
    weight_L = belief_M[1:] / 0.75
    mean = weight_L @ GRID.points_L
    sd = math.sqrt(weight_L @ (GRID.points_L - mean) ** 2)
    assert logit_N.mean() == pytest.approx(mean + shift, abs=4 * sd / 170)
    assert logit_N.std() == pytest.approx(math.sqrt(sd**2 + SPACING**2 / 12), rel=0.02)


def test_noise_must_leave_verdicts_something_to_say():
    for noise in (0.0, 0.5, float("nan")):
        with pytest.raises(ValueError, match="noise"):
            LogitGrid(noise)
