"""the prefill probe of a prompt: Jeffrey's rule by hand, what is learned, what is not counted twice."""

from __future__ import annotations

import numpy as np
import pytest

from estimators.base import Candidate
from estimators.today import PrefillProbe, features_of

RATES_M = np.array([0.05, 0.3, 0.5, 0.7, 0.95])
G = 8
OUTCOME_M3 = np.column_stack([(1 - RATES_M) ** G, 1 - (1 - RATES_M) ** G - RATES_M**G, RATES_M**G])


def groups(rng, n, informative):
    """True states drawn evenly, the view a noisy look at whether the state is a middle one."""
    state_N = rng.integers(5, size=n)
    successes_N = rng.binomial(G, RATES_M[state_N])
    outcome_N = np.where(successes_N == 0, 0, np.where(successes_N == G, 2, 1))
    signal_N = np.abs(RATES_M[state_N] - 0.5) if informative else rng.random(n)
    features_NF = np.column_stack([signal_N + 0.02 * rng.normal(size=n), rng.normal(size=n)])
    likelihood_NM = RATES_M ** successes_N[:, None] * (1 - RATES_M) ** (G - successes_N[:, None])
    return features_NF, likelihood_NM, outcome_N


def learned(informative, belief_M=None, seed=0):
    rng, view = np.random.default_rng(seed), PrefillProbe(memory=1000.0)
    belief_M = np.full(5, 0.2) if belief_M is None else belief_M
    for _ in range(40):
        features_NF, likelihood_NM, outcome_N = groups(rng, 32, informative)
        view.observe(np.tile(belief_M, (32, 1)), OUTCOME_M3, features_NF, likelihood_NM, outcome_N)
    return view


def test_before_anything_is_learned_nothing_moves():
    belief_NM = np.array([[0.1, 0.2, 0.3, 0.2, 0.2]])
    np.testing.assert_array_equal(
        PrefillProbe(100.0).updated(belief_NM, OUTCOME_M3, np.ones((1, 2))), belief_NM
    )


def test_an_informative_view_is_trusted_and_separates_informative_groups_from_the_others():
    view = learned(informative=True)
    assert view.trust.mean > 0.7
    asked_NF = np.array([[0.0, 0.0], [0.45, 0.0]])
    belief_NM = view.updated(np.full((2, 5), 0.2), OUTCOME_M3, asked_NF)
    informative_N = belief_NM @ OUTCOME_M3[:, 1]
    # Views of states with rates 0.5 and 0.05 or 0.95: P(mixed) 0.99 and 0.34.
    assert informative_N[0] > 0.8
    assert informative_N[1] < 0.6  # 0.71 before
    # Symmetric evidence leaves the mean where it was.
    assert belief_NM @ RATES_M == pytest.approx([0.5, 0.5], abs=0.08)


def test_a_view_that_says_nothing_moves_beliefs_little():
    view = learned(informative=False)
    asked_NF = np.random.default_rng(1).random((100, 2))
    belief_NM = view.updated(np.full((100, 5), 0.2), OUTCOME_M3, asked_NF)
    before = (np.full(5, 0.2) @ OUTCOME_M3)[1]
    assert np.abs(belief_NM @ OUTCOME_M3[:, 1] - before).max() < 0.1


def test_full_trust_sets_the_outcomes_probabilities_and_keeps_beliefs_given_the_outcome():
    """Jeffrey's rule itself, state by state and outcome by outcome, against the update's sums."""
    belief_M = np.array([0.3, 0.1, 0.2, 0.1, 0.3])
    told_3, before_3 = np.array([0.2, 0.7, 0.1]), belief_M @ OUTCOME_M3
    joint_M3 = belief_M[:, None] * OUTCOME_M3 / before_3  # P(z | c)
    expected_M = joint_M3 @ told_3
    moved_M = PrefillProbe._moved(belief_M[None], OUTCOME_M3, (told_3 / before_3)[None], 1.0)[0]
    np.testing.assert_allclose(moved_M, expected_M, rtol=1e-12)
    untouched_M = PrefillProbe._moved(belief_M[None], OUTCOME_M3, (told_3 / before_3)[None], 0.0)[0]
    np.testing.assert_allclose(untouched_M, belief_M, rtol=1e-12)


def test_what_the_belief_knew_already_is_not_counted_twice():
    """The view repeats the belief before it: beliefs must come out as they went in."""
    rng, view = np.random.default_rng(5), PrefillProbe(memory=2000.0)
    kinds_K5 = np.array([[0.9, 0.1, 0, 0, 0], [0, 0.3, 0.4, 0.3, 0], [0, 0, 0, 0.1, 0.9]])

    def drawn(n):
        kind_N = rng.integers(3, size=n)
        belief_NM = kinds_K5[kind_N]
        state_N = np.array([rng.choice(5, p=belief_M) for belief_M in belief_NM])
        successes_N = rng.binomial(G, RATES_M[state_N])
        likelihood_NM = RATES_M ** successes_N[:, None] * (1 - RATES_M) ** (G - successes_N[:, None])
        outcome_N = np.where(successes_N == 0, 0, np.where(successes_N == G, 2, 1))
        return belief_NM, np.eye(3)[kind_N], likelihood_NM, outcome_N

    for _ in range(60):
        belief_NM, features_NF, likelihood_NM, outcome_N = drawn(32)
        view.observe(belief_NM, OUTCOME_M3, features_NF, likelihood_NM, outcome_N)
    before_K3 = kinds_K5 @ OUTCOME_M3
    after_K3 = view.updated(kinds_K5, OUTCOME_M3, np.eye(3)) @ OUTCOME_M3
    np.testing.assert_allclose(after_K3, before_K3, atol=0.06)


def test_state_is_exact():
    view, same = learned(informative=True), PrefillProbe(memory=1000.0)
    same.load_state_dict(view.state_dict())
    asked_NF = np.random.default_rng(2).random((10, 2))
    belief_NM = np.full((10, 5), 0.2)
    np.testing.assert_array_equal(
        same.updated(belief_NM, OUTCOME_M3, asked_NF), view.updated(belief_NM, OUTCOME_M3, asked_NF)
    )


def test_prompts_must_agree_on_the_number_of_features():
    brought = [
        Candidate("a", "", features=np.ones(2)),
        Candidate("b", ""),
        Candidate("c", "", features=np.ones(2)),
    ]
    has_N, features_NF = features_of(brought)
    assert has_N.tolist() == [True, False, True]
    assert features_NF.shape == (2, 2)
    with pytest.raises(ValueError, match="same number of features"):
        features_of([*brought, Candidate("d", "", features=np.ones(3))])
    with pytest.raises(ValueError, match="features"):
        learned(informative=True).updated(np.full((1, 5), 0.2), OUTCOME_M3, np.ones((1, 4)))
