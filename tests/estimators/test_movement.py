"""Does the panel find the rates at which simulated pass rates really move?"""

import numpy as np
import pytest

from estimators.logit_grid import ESCAPES, PANEL, RATES, VARIANCES, LogitGrid, Movement, normalised
from estimators.online_learning import ModelAverage


def simulated(variance, seed, prompts=300, visits=25, gap=1, out_of_reach=0.0, escape=0.0):
    """A panel whose logits walk with ``variance`` per step, visited every ``gap`` steps; G = 8. Prompts out
    of reach come into it at the rate ``escape``, with a pass rate of 0.1."""
    rng = np.random.default_rng(seed)
    grid = LogitGrid(noise=1e-4)
    movement = Movement(grid, memory=1e9)
    on_grid_L = np.exp(-0.5 * (grid.points_L / 1.5) ** 2)
    prior_M = normalised(np.append(out_of_reach / (1 - out_of_reach) * on_grid_L.sum(), on_grid_L))
    logit_P = np.where(rng.random(prompts) < out_of_reach, -np.inf, rng.normal(0, 1.5, prompts))
    keys = [str(i) for i in range(prompts)]
    for visit in range(visits):
        k_P = rng.binomial(8, 1 / (1 + np.exp(-logit_P)))
        likelihood_PM = grid.likelihood(k_P, np.full(prompts, 8))
        step = 1 + visit * gap
        if visit == 0:
            movement.first_visit(keys, normalised(prior_M * likelihood_PM), step)
        else:
            movement.revisit(keys, likelihood_PM, step, shift=0.0)
        logit_P = logit_P + rng.normal(0, np.sqrt(variance * gap), prompts)
        escaped_P = np.isinf(logit_P) & (rng.random(prompts) < 1 - np.exp(-escape * gap))
        logit_P[escaped_P] = np.log(0.1 / 0.9)
    return movement


@pytest.mark.parametrize(("variance", "gap"), [(0.01, 1), (0.03, 1), (0.003, 10)])
def test_finds_the_walks_rate_per_step_however_far_apart_the_visits(variance, gap):
    weights_V = (
        simulated(variance, seed=0, gap=gap).model_average.weights.reshape(len(VARIANCES), -1).sum(axis=1)
    )
    assert VARIANCES[int(np.argmax(weights_V))] == variance


def test_prompts_that_stand_still_are_seen_to():
    assert simulated(0.0, seed=2).variance < 1e-3


def test_finds_how_soon_prompts_come_into_reach():
    fast = simulated(0.0, seed=3, out_of_reach=0.6, escape=1e-2)
    slow = simulated(0.0, seed=3, out_of_reach=0.6, escape=0.0)
    assert ESCAPES[2] < fast.escape <= ESCAPES[3]
    assert slow.escape < ESCAPES[2]


def test_the_panel_is_bounded_and_strangers_are_ignored():
    grid = LogitGrid(noise=1e-4)
    movement = Movement(grid, memory=100.0)
    keys = [str(i) for i in range(PANEL + 10)]
    belief_NM = normalised(grid.likelihood(np.full(len(keys), 4), np.full(len(keys), 8)))
    movement.first_visit(keys, belief_NM, step=1)
    before_R = movement.model_average.weights
    all_right_NM = grid.likelihood(np.full(10, 8), np.full(10, 8))
    movement.revisit(keys[PANEL:], all_right_NM, step=5, shift=0.0)
    np.testing.assert_array_equal(movement.model_average.weights, before_R)
    movement.revisit(keys[:10], all_right_NM, step=5, shift=0.0)
    assert not np.array_equal(movement.model_average.weights, before_R)


def test_beliefs_spread_as_the_average_over_the_rates_says():
    """Brute force: each pair of rates by itself, then the weighted mean."""
    movement = simulated(0.01, seed=4, visits=3, out_of_reach=0.3)
    grid = movement.grid
    belief_NM = normalised(np.random.default_rng(0).random((4, len(grid))))
    elapsed_N = np.array([0, 1, 7, 7])
    expected_NM = sum(
        weight * grid.spread(belief_NM, grid.decay(elapsed_N * v), np.exp(-e * elapsed_N), 0.5)
        for weight, (v, e) in zip(movement.model_average.weights, RATES, strict=True)
    )
    np.testing.assert_allclose(movement.spread(belief_NM, elapsed_N, 0.5), expected_NM, atol=1e-12)


def test_model_average_weights_are_bayes_posterior_and_fade():
    model_average = ModelAverage([1.0, 2.0], memory=1e12)
    model_average.score(np.array([[0.2, 0.6], [0.5, 0.5]]))
    np.testing.assert_allclose(model_average.weights, [0.25, 0.75])
    assert model_average.mean == pytest.approx(1.75)
    forgetful = ModelAverage([1.0, 2.0], memory=1.0)
    forgetful.score(np.array([[0.2, 0.6]]))
    forgetful.score(np.array([[0.5, 0.5]]))
    odds = 3 ** np.exp(-1)
    np.testing.assert_allclose(forgetful.weights, [1 / (1 + odds), odds / (1 + odds)])
    with pytest.raises(ValueError, match="memory"):
        ModelAverage([1.0], memory=0)
