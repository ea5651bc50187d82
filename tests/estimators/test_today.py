"""How far a history counts beside what today's policy shows: a closed form, worlds where it holds or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from estimators.base import Candidate, Context, Observation, Rescored
from estimators.hybrid import HybridEstimator
from estimators.logit_grid import LogitGrid, normalised, sigmoid
from estimators.today import Before, was_asked

G = 8
PROMPTS = 200
STEPS = 120
GRID = LogitGrid(0.0005)
UNDECIDED = 0.5  # what a history is thought to be worth before anything is learned of it


@pytest.mark.parametrize("trust", [0.0, 0.25, 0.5, 1.0])
def test_a_weighed_history_is_its_likelihood_to_that_power(trust: float) -> None:
    rng = np.random.default_rng(0)
    stranger_KM = normalised(rng.uniform(0.1, 1.0, (3, len(GRID))))
    likelihood_KM = GRID.likelihood(np.array([0, 1, 2]), np.full(3, 2), 0.0)
    history_KM = normalised(stranger_KM * likelihood_KM)
    untouched_1M = normalised(rng.uniform(0.1, 1.0, (1, len(GRID))))
    before = Before(np.concatenate([untouched_1M, history_KM]), np.array([1, 2, 3]), stranger_KM)
    weighed_NM = before.weighed(trust)
    np.testing.assert_array_equal(weighed_NM[:1], untouched_1M)
    np.testing.assert_allclose(
        weighed_NM[1:], normalised(stranger_KM * likelihood_KM**trust), atol=1e-6
    )  # `FLOOR`


def test_an_answer_hardly_likely_any_more_is_no_reply_and_history_stands() -> None:
    """`KnownAnswers` makes nothing of it, so nothing would stand in the history's place."""
    estimator = HybridEstimator(text="none")
    for step in range(1, 4):
        estimator.observe([Observation("a", "", 8, G, step)], Context(G, step))
    asked = [
        Candidate("a", "", rescored=rescored) for rescored in (None, Rescored(1e-6, 0.0), Rescored(0.3, 0.3))
    ]
    nothing, hardly, much = estimator.predict(asked, Context(G, 4)).mean
    assert hardly == nothing
    assert much < nothing - 0.1


class World:
    """Prompts of every difficulty and a policy that is asked about them: it shows a noisy view, or how likely
    its earlier answers are, a share ``known`` of all it might say. Where it is ``sudden``, any prompt may
    become any other one overnight: no walk of logits goes there."""

    def __init__(self, sudden: float, probe_noise: float | None = None, known: float = 0.0) -> None:
        self.rng = np.random.default_rng(1)
        self.sudden, self.probe_noise, self.known = sudden, probe_noise, known
        self.logit_N = self.rng.normal(0.0, 3.0, PROMPTS)

    def night(self) -> None:
        jumps_N = self.rng.random(PROMPTS) < self.sudden
        self.logit_N[jumps_N] = self.rng.normal(0.0, 3.0, jumps_N.sum())

    def shown(self, i: int) -> dict[str, Any]:
        if self.probe_noise is None:
            rate = float(sigmoid(self.logit_N[i]))
            return {"rescored": Rescored(self.known * rate, self.known * (1.0 - rate))}
        return {"features": np.array([self.logit_N[i] + self.rng.normal(0.0, self.probe_noise), 1.0])}

    def groups(self, step: int, picks_n: np.ndarray) -> list[Observation]:
        counts_n = self.rng.binomial(G, sigmoid(self.logit_N[picks_n]))
        return [
            Observation(str(i), "", int(k), G, step, **self.shown(i))
            for i, k in zip(picks_n, counts_n, strict=True)
        ]


def lived(world: World) -> tuple[HybridEstimator, float]:
    """An estimator after `STEPS` nights, and what it then thought of its histories' worth."""
    estimator = HybridEstimator(text="none")
    diagnosis: dict[str, float] = {}
    for step in range(1, STEPS + 1):
        world.night()
        picks_n = world.rng.choice(PROMPTS, 24, replace=False)
        diagnosis = estimator.observe(world.groups(step, picks_n), Context(G, step))
    return estimator, diagnosis["history_trust"]


@pytest.mark.parametrize("asked", [{"probe_noise": 6.0}, {"known": 0.05}], ids=["view", "answers"])
def test_a_history_counts_where_pass_rates_stay_and_replies_say_little(asked: dict[str, float]) -> None:
    assert lived(World(sudden=0.0, **asked))[1] > 0.9


def test_nothing_is_thought_of_a_history_at_first() -> None:
    assert HybridEstimator(text="none").today.history.mean == UNDECIDED


def test_answers_alone_show_a_history_that_misleads() -> None:
    assert lived(World(sudden=0.9, known=0.02))[1] < 0.4 < UNDECIDED


def test_a_history_that_keeps_misleading_is_let_go_and_predictions_are_the_better_for_it() -> None:
    world = World(sudden=0.3, probe_noise=0.5)
    estimator, trust = lived(world)
    assert trust < 0.4 < UNDECIDED

    def error() -> float:
        mean_N = estimator.predict(candidates, Context(G, STEPS + 5)).mean
        return float(((mean_N - sigmoid(world.logit_N)) ** 2).mean())

    for _ in range(5):
        world.night()
    candidates = [Candidate(str(i), "", **world.shown(i)) for i in range(PROMPTS)]
    learned = error()
    estimator.today.history.scores_S = np.array([-1e9, -1e9, -1e9, -1e9, 0.0])  # believe it whole
    assert learned < error()


def test_where_the_policy_was_not_asked_its_replies_elsewhere_leave_the_history_alone() -> None:
    """Two estimators with the same groups, one of them shown the views besides, agree on prompts without."""
    told, untold = HybridEstimator(text="none"), HybridEstimator(text="none")
    world = World(sudden=0.1, probe_noise=0.5)
    for step in range(1, 31):
        world.night()
        groups = world.groups(step, world.rng.choice(PROMPTS, 24, replace=False))
        told.observe(groups, Context(G, step))
        untold.observe(
            [Observation(one.key, "", one.successes, one.trials, step) for one in groups], Context(G, step)
        )
    candidates = [Candidate(str(i), "") for i in range(PROMPTS)]
    for name in ("mean", "sd", "p_informative"):
        np.testing.assert_array_equal(
            getattr(told.predict(candidates, Context(G, 31)), name),
            getattr(untold.predict(candidates, Context(G, 31)), name),
        )


def test_answers_of_which_none_is_likely_any_more_are_no_reply() -> None:
    assert not was_asked(Candidate("a", ""))
    assert not was_asked(Candidate("a", "", rescored=Rescored(0.0, 0.0)))
    assert was_asked(Candidate("a", "", rescored=Rescored(0.0, 0.2)))
    assert was_asked(Candidate("a", "", features=np.zeros(2)))
