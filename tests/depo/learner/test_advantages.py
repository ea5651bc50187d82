"""Worked examples, and baselines held against enumeration; parity with TRL's formula is in
tests/depo/learner/test_trl_parity.py.

K: answers of a tabular policy, G: group size.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from depo.estimators.base import Context
from depo.learner.advantages import (
    Judged,
    advantages_into,
    belief,
    build_advantages,
    group,
    group_advantages,
    thinned,
    worth,
)
from depo.learner.samples import train_samples
from depo.recipe import schema
from depo.reward.base import Score, unscorable
from depo.selection.picks import SelectionSettings
from depo.selection.selector import Selector
from depo.types import Group, Origin, Outcome, Pick, Prompt, Rollout

NAN = float("nan")


def test_one_success_in_four_is_centred_and_scaled_by_the_sample_deviation() -> None:
    # mean 1/4, squared deviations 9/16 + 3/16 = 12/16, divided by G − 1 = 3: std 1/2
    expected = np.array([0.75, -0.25, -0.25, -0.25]) / (0.5 + 1e-4)
    assert group_advantages(np.array([1.0, 0, 0, 0]), scale=True) == pytest.approx(expected)


def test_scale_none_only_centres() -> None:
    assert group_advantages(np.array([1.0, 0, 0, 0]), scale=False).tolist() == [0.75, -0.25, -0.25, -0.25]


def test_unscorable_rollouts_get_zero_and_do_not_move_the_baseline() -> None:
    with_gap = group_advantages(np.array([1.0, NAN, 0.0, 1.0, NAN]), scale=True)
    without = group_advantages(np.array([1.0, 0.0, 1.0]), scale=True)
    assert with_gap[[1, 4]].tolist() == [0, 0]
    assert with_gap[[0, 2, 3]] == pytest.approx(without)


@pytest.mark.parametrize("values", [[NAN, NAN], [1.0, NAN], [1.0], [NAN, 0.3, NAN]])
def test_fewer_than_two_scorable_rollouts_give_no_advantage(values: list[float]) -> None:
    assert group_advantages(np.array(values), scale=True).tolist() == [0.0] * len(values)


@given(st.lists(st.one_of(st.just(NAN), st.floats(-10, 10)), min_size=2, max_size=16))
def test_advantages_are_finite_and_sum_to_zero(values: list[float]) -> None:
    advantages = group_advantages(np.array(values), scale=True)
    assert np.isfinite(advantages).all()
    assert abs(float(advantages.sum())) < 1e-3


# ---------------------------------------------------------------- the belief

PROBABILITIES = np.array([0.15, 0.25, 0.6])  # of three answers; the first two are right
RIGHT = np.array([1.0, 1.0, 0.0])
PASS_RATE = 0.4


def judged(rewards, mean: float = NAN, sd: float = NAN, correct=None) -> Judged:
    rewards = np.asarray(rewards, dtype=np.float64)
    return Judged(rewards, rewards if correct is None else np.asarray(correct, dtype=np.float64), mean, sd)


def gradient(advantages, group_size: int, mean: float, sd: float) -> tuple[np.ndarray, float]:
    """Expected mean of A ∇ log π over a group, in the logits (K,), and its total variance: all outcomes of
    the group are enumerated."""
    score_KK = np.eye(3) - PROBABILITIES  # row a: ∇ log π(a)
    outcomes = [list(answers) for answers in product(range(3), repeat=group_size)]
    found = advantages([judged(RIGHT[rows], mean, sd) for rows in outcomes])  # rewards of 0 and 1: each alone
    chance = np.array([PROBABILITIES[rows].prod() for rows in outcomes])
    steps = np.array([one @ score_KK[rows] / group_size for one, rows in zip(found, outcomes, strict=True)])
    first, second = chance @ steps, chance @ (steps**2).sum(axis=1)
    return first, float(second - first @ first)


TRUE_GRADIENT = PROBABILITIES * (RIGHT - PASS_RATE)


@pytest.mark.parametrize("group_size", [1, 2, 4, 8])
@pytest.mark.parametrize("pseudo_rollouts", ["auto", 4.0])
@pytest.mark.parametrize(("mean", "sd"), [(0.4, 0.1), (0.05, 0.02), (0.7, 0.4)])
def test_the_expected_update_is_the_true_gradient_whatever_was_believed(
    group_size, pseudo_rollouts, mean, sd
):
    found, _ = gradient(belief(pseudo_rollouts, scale="none"), group_size, mean, sd)
    np.testing.assert_allclose(found, TRUE_GRADIENT, atol=1e-7)


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_scaling_by_the_belief_changes_the_length_of_the_update_and_not_its_direction(group_size):
    found, _ = gradient(belief(4.0), group_size, 0.3, 0.1)
    factor = found[0] / TRUE_GRADIENT[0]
    assert factor > 1
    np.testing.assert_allclose(found, factor * TRUE_GRADIENT, atol=1e-7)


@pytest.mark.parametrize("group_size", [2, 4, 8])
def test_a_good_belief_has_less_variance_than_the_group_mean(group_size):
    """Which is made unbiased by G / (G − 1), for a fair comparison."""

    def unbiased(judged_P):
        return [one * group_size / (group_size - 1) for one in group("none")(judged_P)]

    mean_of_group, noise = gradient(unbiased, group_size, NAN, NAN)
    np.testing.assert_allclose(mean_of_group, TRUE_GRADIENT, atol=1e-7)
    _, with_belief = gradient(belief(scale="none"), group_size, 0.45, 0.1)
    assert with_belief < noise


def test_auto_is_the_number_of_counts_of_a_beta_and_the_best_linear_mixture():
    """Brute force: of all weights, the mean squared error of the expected rate is smallest at ``worth``."""
    beta = stats.beta(1.5, 4.5)
    mean, sd = beta.mean(), beta.std()
    assert worth(mean, sd) == pytest.approx(6.0)
    rates = beta.ppf((np.arange(2000) + 0.5) / 2000)
    siblings = 3

    def error(weight: float) -> float:
        hits = np.arange(siblings + 1)
        chance = stats.binom.pmf(hits[:, None], siblings, rates)
        expected = (weight * mean + hits[:, None]) / (weight + siblings)
        return float((chance * (expected - rates) ** 2).sum(axis=0).mean())

    weights = np.linspace(1, 20, 191)
    assert weights[np.argmin([error(w) for w in weights])] == pytest.approx(6.0, abs=0.15)
    assert worth(0.3, 0.0) == 1e6
    assert worth(0.5, 0.6) == 0.0  # more spread than any belief can have: the siblings decide


def test_a_worked_example():
    """p̂ = 0.1 counts as four rollouts; the sibling of the right one was wrong, and the other way round."""
    (found,) = belief(4.0)([judged([1, 0], 0.1, 0.1)])
    expected_of_right, expected_of_wrong = 0.4 / 5, 1.4 / 5
    np.testing.assert_allclose(
        found,
        [
            (1 - expected_of_right) / 0.33,
            -expected_of_wrong / np.sqrt(expected_of_wrong * (1 - expected_of_wrong)),
        ],
    )


def test_shaped_rewards_are_compared_at_their_own_level():
    """Rewards of 3 and −1 instead of 1 and 0 give the same advantages, by the levels of the other groups."""
    plain = [judged([1, 0], 0.3, 0.2), judged([0, 0], 0.1, 0.1), judged([1, 1, 0], 0.6, 0.2)]
    shaped = [Judged(4 * one.rewards - 1, one.correct, one.mean, one.sd) for one in plain]
    for found, expected in zip(belief()(shaped), belief()(plain), strict=True):
        np.testing.assert_allclose(found, expected)


def test_without_a_belief_the_siblings_stand_alone():
    (pair,) = belief(scale="none")([judged([1, 0])])
    np.testing.assert_allclose(pair, [1, -1])
    (alone,) = belief(scale="none")([judged([1])])
    assert alone.tolist() == [0.0]


def test_rollouts_without_a_verdict_neither_count_nor_move_the_others():
    gap, whole = belief(4.0)([judged([1, NAN, 0], 0.4, 0.1)]), belief(4.0)([judged([1, 0], 0.4, 0.1)])
    np.testing.assert_allclose(gap[0][[0, 2]], whole[0])
    assert gap[0][1] == 0


def test_scale_batch_has_mean_zero_and_deviation_one_over_the_round():
    found = np.concatenate(belief(scale="batch")([judged([1, 0], 0.3, 0.2), judged([0, 0], 0.1, 0.1)]))
    assert found.mean() == pytest.approx(0, abs=1e-9)
    assert found.std() == pytest.approx(1, abs=1e-3)


# ---------------------------------------------------------------- in a run


def made(key: str, verdicts, mean: float, values=None) -> Group:
    pick = Pick(
        Prompt(key, key, (1, 2), "1"), Origin.SELECTED, "uniform", True, NAN, mean, NAN, predicted_sd=0.1
    )
    scores = [
        unscorable("timeout") if verdict is None else Score(float(verdict), verdict) for verdict in verdicts
    ]
    if values is not None:
        scores = [Score(value, verdict) for value, verdict in zip(values, verdicts, strict=True)]
    rollouts = [
        Rollout(key, i, i, np.full(3, i, np.int32), np.zeros(3, np.float32), "stop", 0)
        for i in range(len(scores))
    ]
    return Group(pick, rollouts, scores, [""] * len(scores))


def assigned(groups: list[Group], graded_on: str) -> list[Group]:
    selector = Selector(SelectionSettings(batch=8, min_window=0, graded_on=graded_on), None, 0)  # type: ignore[arg-type]
    step = selector.begin(Context(2, 1))
    step.picks += [group.pick for group in groups]
    return selector.assign(step, groups)


def test_what_a_rollout_was_worth_follows_from_its_advantage():
    """As expected: too little to train on, but for a few. A surprise, alone or among others: always."""
    groups = [
        made("expected", [True, True], 0.99),
        made("surprise", [False, True], 0.97),
        made("alone", [True], 0.1),
        made("nothing", [None, None], 0.5),
    ]
    advantages_into(groups, belief(16.0), least=0.3)
    trained = assigned(groups, "pass_rate")
    assert [group.pick.prompt.key for group in trained] == ["surprise", "alone"]
    assert [[str(group.outcome_of(i)) for i in range(len(group.rollouts))] for group in groups] == [
        ["negligible", "negligible"],
        ["trained", "negligible"],
        ["trained"],
        ["unscorable", "unscorable"],
    ]
    samples = train_samples(groups)
    assert [(sample.key, sample.index) for sample in samples] == [("surprise", 0), ("alone", 0)]


@pytest.mark.parametrize("advantage", [0.06, -0.2, 0.3, -2.0, 0.0])
def test_thinning_keeps_a_share_so_that_the_update_stays_the_same_in_the_mean(advantage):
    draws = np.random.default_rng(0).random(40_000)
    kept, left_out = thinned(np.full(len(draws), advantage, np.float32), 0.3, draws)
    told = np.where(left_out, 0.0, kept)
    assert told.mean() == pytest.approx(advantage, abs=0.005)
    assert 1 - left_out.mean() == pytest.approx(min(abs(advantage) / 0.3, 1), abs=0.01)
    sizes = np.unique(np.abs(told[told != 0]))
    np.testing.assert_allclose(sizes, [max(0.3, abs(advantage))] if advantage else [], rtol=1e-6)


def test_which_rollouts_are_kept_depends_on_nothing_but_the_rollout():
    alone, among = (made("one", [True], 0.9), made("one", [True], 0.9)), made("other", [False], 0.9)
    for groups in ([alone[0]], [among, alone[1]]):
        advantages_into(groups, belief(16.0), least=0.5)
    assert alone[0].left_out == alone[1].left_out


def test_by_the_group_s_mean_a_group_all_right_teaches_nothing_whatever_a_shaped_reward_adds():
    groups = [made("right", [True, True], 0.5, values=[1.2, 0.8]), made("mixed", [True, False], 0.5)]
    advantages_into(groups, group())
    assert assigned(groups, "informative") == [groups[1]]
    assert groups[0].outcome == Outcome.ZERO_VARIANCE


@pytest.mark.parametrize(
    ("learner", "expected"),
    [
        ({}, {"type": "group", "scale": "group"}),
        ({"loss": {"type": "dr_grpo"}}, {"type": "group", "scale": "none"}),
        (
            {"baseline": {"type": "belief"}},
            {"type": "belief", "pseudo_rollouts": "auto", "floor": 0.33, "scale": "belief"},
        ),
    ],
)
def test_the_scale_is_that_of_loss_and_baseline_unless_named(learner, expected):
    spec = schema.Learner.model_validate(learner).advantages
    assert spec == expected
    build_advantages(spec)
