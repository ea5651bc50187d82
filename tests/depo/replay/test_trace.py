"""The smoother against a direct loop."""

import math

import numpy as np
import pytest

from depo.replay.full import smoother
from depo.replay.trace import smoothed_rates


def direct(successes, trials, t):
    """Σ w k / Σ w n over the other visits of one prompt."""
    visited = [s for s in range(len(trials)) if trials[s] > 0]
    above = below = 0.0
    for position, s in enumerate(visited):
        if s != t:
            weight = math.exp(-0.5 * ((position - visited.index(t)) / 3.0) ** 2)
            above, below = above + weight * successes[s], below + weight * trials[s]
    return above / below


def test_smoother_equals_a_direct_loop_that_leaves_the_visit_out():
    rng = np.random.default_rng(0)
    successes = rng.integers(0, 9, size=(5, 20))
    trials = np.full((5, 20), 8)
    trials[1, [3, 4, 11]] = 0
    trials[2, 0] = 0
    successes[trials == 0] = -1
    found = smoothed_rates(successes, trials)
    for i in range(5):
        for t in range(20):
            if trials[i, t] == 0:
                assert math.isnan(found[i, t])
            else:
                assert found[i, t] == pytest.approx(direct(successes[i], trials[i], t))


def test_the_visits_own_outcome_does_not_count():
    before = smoothed_rates(np.array([[0, 4, 8]]), np.full((1, 3), 8))
    after = smoothed_rates(np.array([[0, 7, 8]]), np.full((1, 3), 8))
    assert before[0, 1] == after[0, 1] == 0.5


def test_a_prompt_visited_once_has_no_reference(make_trace):
    assert smoother(make_trace([[3], [8]]), 8) is None
    graded = smoother(make_trace([[3, 4], [8, -1]]), 8)
    assert graded.prompt_M.tolist() == [0, 0]
    assert graded.mean_M.tolist() == pytest.approx([0.5, 3 / 8])
