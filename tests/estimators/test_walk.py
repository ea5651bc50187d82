"""Does the panel find the rate at which simulated pass rates really wander?"""

import numpy as np
import pytest

from estimators.contest import Contest
from estimators.logit_grid import LogitGrid, normalised
from estimators.walk import PANEL, VARIANCES, WanderingRate


def simulated(variance, seed, prompts=300, visits=25, gap=1):
    """A panel whose logits walk with ``variance`` per step, visited every ``gap`` steps; G = 8."""
    rng = np.random.default_rng(seed)
    grid = LogitGrid(noise=0.0)
    walk = WanderingRate(grid, memory=1e9)
    prior_M = normalised(np.exp(-0.5 * (grid.points_M / 1.5) ** 2))
    logit_P = rng.normal(0, 1.5, prompts)
    keys = [str(i) for i in range(prompts)]
    for visit in range(visits):
        k_P = rng.binomial(8, 1 / (1 + np.exp(-logit_P)))
        likelihood_PM = grid.likelihood(k_P, np.full(prompts, 8))
        if visit == 0:
            walk.first_visit(keys, normalised(prior_M * likelihood_PM), step=1)
        else:
            walk.revisit(keys, likelihood_PM, step=1 + visit * gap)
        logit_P = logit_P + rng.normal(0, np.sqrt(variance * gap), prompts)
    return walk


@pytest.mark.parametrize(("variance", "gap"), [(0.01, 1), (0.03, 1), (0.003, 10)])
def test_finds_the_rate_per_step_however_far_apart_the_visits(variance, gap):
    assert VARIANCES[int(np.argmax(simulated(variance, seed=0, gap=gap).weights))] == variance


def test_prompts_that_stand_still_are_seen_to():
    weights_R = simulated(0.0, seed=2).weights
    assert weights_R[np.array(VARIANCES) <= 1e-3].sum() > 0.99


def test_the_panel_is_bounded_and_strangers_are_ignored():
    grid = LogitGrid(noise=0.0)
    walk = WanderingRate(grid, memory=100.0)
    keys = [str(i) for i in range(PANEL + 10)]
    belief_NM = normalised(grid.likelihood(np.full(len(keys), 4), np.full(len(keys), 8)))
    walk.first_visit(keys, belief_NM, step=1)
    before_R = walk.weights
    walk.revisit(keys[PANEL:], grid.likelihood(np.full(10, 8), np.full(10, 8)), step=5)
    np.testing.assert_array_equal(walk.weights, before_R)
    walk.revisit(keys[:10], grid.likelihood(np.full(10, 8), np.full(10, 8)), step=5)
    assert not np.array_equal(walk.weights, before_R)


def test_contest_weights_are_bayes_posterior_and_fade():
    contest = Contest([1.0, 2.0], memory=1e12)
    contest.score(np.array([[0.2, 0.6], [0.5, 0.5]]))
    np.testing.assert_allclose(contest.weights, [0.25, 0.75])
    assert contest.mean == pytest.approx(1.75)
    forgetful = Contest([1.0, 2.0], memory=1.0)
    forgetful.score(np.array([[0.2, 0.6]]))
    forgetful.score(np.array([[0.5, 0.5]]))
    odds = 3 ** np.exp(-1)
    np.testing.assert_allclose(forgetful.weights, [1 / (1 + odds), odds / (1 + odds)])
    with pytest.raises(ValueError, match="memory"):
        Contest([1.0], memory=0)
