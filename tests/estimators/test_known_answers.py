"""Answers seen before, weighed anew: what is certain, what is left to guess, and what guessing learns."""

from __future__ import annotations

import json

import numpy as np
import pytest

from estimators.base import Candidate, Context, Observation, Rescored, State
from estimators.hybrid import HybridEstimator
from estimators.known_answers import KnownAnswers, rescored_of
from estimators.logit_grid import SPACING, LogitGrid, normalised, sigmoid

G = 8
GRID = LogitGrid(0.0005)
CELL = SPACING / 4  # the largest step of a rate between two grid points: slope 1/4 of the sigmoid


def flat(n: int) -> np.ndarray:
    return np.full((n, len(GRID)), 1.0 / len(GRID))


def mean_rate(belief_NM: np.ndarray, ability: float = 0.0) -> np.ndarray:
    return belief_NM @ GRID.rates(ability)


def worlds(rng: np.random.Generator, n: int, many_wordings: bool) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) and the true pass rate of n prompts. Either the right answer is known whole, or what is known
    is a share of right and wrong answers alike."""
    rate_N, share_N = rng.uniform(0.05, 0.95, n), rng.uniform(0.2, 0.8, n)
    right_N = rate_N * share_N if many_wordings else rate_N
    return np.column_stack([right_N, (1.0 - rate_N) * share_N]), rate_N


def learned(many_wordings: bool, memory: float = 3000.0) -> KnownAnswers:
    rng, known = np.random.default_rng(0), KnownAnswers(GRID, memory)
    for _ in range(60):
        known_N2, rate_N = worlds(rng, 32, many_wordings)
        known.observe(flat(32), known_N2, 0.0, rng.binomial(G, rate_N), np.full(32, G))
    return known


@pytest.mark.parametrize("ability", [0.0, 2.0])
def test_when_every_answer_is_known_the_pass_rate_is_known_whatever_was_believed(ability: float) -> None:
    right_N = np.array([0.03, 0.5, 0.7, 0.97])
    known_N2 = np.column_stack([right_N, 1.0 - right_N])
    never_NM = np.zeros((4, len(GRID)))
    never_NM[:, 0] = 1.0
    for belief_NM in (flat(4), never_NM):
        updated_NM = KnownAnswers(GRID, 1000.0).updated(belief_NM, known_N2, ability)
        assert updated_NM.sum(axis=1) == pytest.approx(1.0)
        np.testing.assert_allclose(mean_rate(updated_NM, ability), right_N, atol=0.01)


def test_what_is_known_bounds_the_pass_rate() -> None:
    rng = np.random.default_rng(1)
    known_N2 = rng.dirichlet([1.0, 1.0, 1.0], size=200)[:, :2]
    belief_NM = rng.dirichlet(np.ones(len(GRID)), size=200)
    updated_NM = KnownAnswers(GRID, 1000.0).updated(belief_NM, known_N2, 0.0)
    rate_M = GRID.rates()
    possible_NM = rate_M >= known_N2[:, :1] - CELL
    possible_NM &= rate_M <= 1.0 - known_N2[:, 1:] + CELL
    assert (updated_NM[~possible_NM] == 0).all()
    assert (~possible_NM).any(axis=1).mean() > 0.9


def test_nothing_known_changes_nothing() -> None:
    belief_NM = np.random.default_rng(2).dirichlet(np.ones(len(GRID)), size=3)
    known = learned(many_wordings=True)
    np.testing.assert_array_equal(known.updated(belief_NM, np.zeros((3, 2)), 0.0), belief_NM)
    shares = known.share_CR.copy()
    known.observe(belief_NM, np.zeros((3, 2)), 0.0, np.array([0, 4, 8]), np.full(3, G))
    np.testing.assert_array_equal(known.share_CR, shares)


@pytest.mark.parametrize("many_wordings", [False, True], ids=["one right answer", "many wordings"])
def test_it_learns_what_the_known_answers_say_of_the_unknown_ones(many_wordings: bool) -> None:
    known_N2, rate_N = worlds(np.random.default_rng(9), 500, many_wordings)
    errors = [
        np.abs(mean_rate(subject.updated(flat(500), known_N2, 0.0)) - rate_N).mean()
        for subject in (
            learned(many_wordings),
            KnownAnswers(GRID, 3000.0),
            learned(not many_wordings),
        )
    ]
    assert errors[0] < 0.6 * errors[1]
    assert errors[0] < 0.6 * errors[2], "the two worlds ask for different guesses"


def test_a_belief_that_has_proved_right_weighs_in_and_one_that_has_not_does_not() -> None:
    rng = np.random.default_rng(3)

    def error(sharpness: float) -> tuple[float, float]:
        known = KnownAnswers(GRID, 3000.0)
        rate_M = GRID.rates()
        for _ in range(60):
            rate_N = rng.uniform(0.05, 0.95, 32)
            known_N2 = np.column_stack([0.2 * rate_N * rng.random(32), 0.2 * (1.0 - rate_N)])
            believed_N = rate_N if sharpness else rng.uniform(0.05, 0.95, 32)
            belief_NM = normalised(np.exp(-(((rate_M - believed_N[:, None]) / 0.1) ** 2)))
            guess_N = mean_rate(known.updated(belief_NM, known_N2, 0.0))
            known.observe(belief_NM, known_N2, 0.0, rng.binomial(G, rate_N), np.full(32, G))
        return float(np.abs(guess_N - rate_N).mean()), known.trust.mean

    right, wrong = error(1.0), error(0.0)
    assert right[1] > 0.7 > 0.2 > wrong[1]
    assert right[0] < 0.1 < wrong[0]


def test_cells_say_where_a_rate_lies_on_the_grid() -> None:
    rate_NR = np.array([[1e-9, 0.2, 0.5, 0.93, 1.0]])
    below_NR, share_NR = GRID.cells(rate_NR, shift=0.7)
    logit_M = np.append(GRID.points_L[0] - SPACING, GRID.points_L) + 0.7
    found_NR = sigmoid(logit_M[below_NR] * (1 - share_NR) + logit_M[below_NR + 1] * share_NR)
    np.testing.assert_allclose(found_NR[0, 1:4], rate_NR[0, 1:4], rtol=1e-9)
    assert (below_NR[0, 0], share_NR[0, 0]) == (0, 0.0), "never"
    assert (below_NR[0, -1], share_NR[0, -1]) == (len(GRID) - 2, 1.0)


def test_hybrid_bounds_its_belief_by_what_is_known_after_the_policy_has_moved() -> None:
    estimator = HybridEstimator(text="none")
    rng = np.random.default_rng(4)
    for step in range(1, 31):
        known_N2, rate_N = worlds(rng, 16, many_wordings=False)
        estimator.observe(
            [
                Observation(f"{step} {i}", "", int(k), G, step, rescored=Rescored(*known_N2[i]))
                for i, k in enumerate(rng.binomial(G, rate_N))
            ],
            Context(G, step),
        )
    estimator.observe([Observation("a", "", 0, G, 31)], Context(G, 31))
    now = Context(G, 32)
    stale = estimator.predict([Candidate("a", "")], now).mean[0]
    fresh = estimator.predict([Candidate("a", "", rescored=Rescored(0.8, 0.1))], now).mean[0]
    assert stale < 0.4, "no right answer last time"
    assert fresh == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(("rescored", "successes"), [((1.0, 0.0), 0), ((0.0, 1.0), 256)])
def test_a_large_group_that_contradicts_what_is_known_teaches_something_finite(rescored, successes) -> None:
    """As when a judge is down and calls everything wrong: such verdicts are less likely than a float can
    say."""
    known = learned(many_wordings=False)
    known.observe(flat(1), np.array([rescored]), 0.0, np.array([successes]), np.array([256]))
    assert np.isfinite(known.share_CR).all()
    assert np.isfinite(known.updated(flat(1), np.array([rescored]), 0.0)).all()


def test_state_round_trips_exactly() -> None:
    original, restored = learned(many_wordings=True), KnownAnswers(GRID, 3000.0)
    state = original.state_dict()
    values = json.loads(json.dumps(dict(state.values)))
    restored.load_state_dict(State(state.schema_version, values, dict(state.arrays)))
    known_N2, rate_N = worlds(np.random.default_rng(5), 20, many_wordings=True)
    for subject in (original, restored):
        subject.observe(flat(20), known_N2, 0.0, np.round(G * rate_N), np.full(20, G))
    np.testing.assert_array_equal(
        original.updated(flat(20), known_N2, 0.3), restored.updated(flat(20), known_N2, 0.3)
    )


def test_prompts_without_known_answers_have_none() -> None:
    candidates = [Candidate("a", ""), Candidate("b", "", rescored=Rescored(0.25, 0.5))]
    np.testing.assert_array_equal(rescored_of(candidates), [[0.0, 0.0], [0.25, 0.5]])
    assert rescored_of([]).shape == (0, 2)
