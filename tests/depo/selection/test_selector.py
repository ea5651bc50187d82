"""The selector on a synthetic pool whose pass rates are known.

P: prompts in the pool, B: prompts a batch, G: group size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from synthetic_pool import (
    G,
    Oracle,
    first_round,
    group,
    keys,
    pass_rate,
    pool_of,
    rolled_out,
    run_step,
    selector_of,
)

from depo.estimators.base import Candidate, Context, Estimates, Observation
from depo.estimators.baselines import UniformEstimator
from depo.estimators.moments import informative_probability
from depo.estimators.mopps import MoppsEstimator
from depo.selection import Selector
from depo.selection.pool import PromptPool
from depo.selection.rules import top
from depo.types import Group, Origin, Outcome, Pick

# ---------------------------------------------------------------- uniform picks


def test_uniform_selection_takes_the_pool_in_its_shuffled_order_pass_after_pass() -> None:
    selector, pool, reference = selector_of(type="uniform", refill=False), pool_of(40), pool_of(40)
    for step in range(1, 6):
        picks = first_round(selector, pool, UniformEstimator(), step)[1]
        assert keys(picks) == [prompt.key for prompt in reference.next(16)]
        assert {pick.origin for pick in picks} == {Origin.SELECTED}
        assert all(
            pick.uniform and pick.selector == "uniform" and pick.propensity == 1 / 40 for pick in picks
        )


def test_warm_up_is_uniform_but_records_what_the_estimator_believed() -> None:
    selector, pool, estimator = selector_of(min_window=200), pool_of(100), MoppsEstimator()
    first = run_step(selector, pool, estimator, 1)
    assert all(g.pick.uniform and g.pick.predicted_mean == 0.5 for g in first)
    run_step(selector, pool, estimator, 2)
    state = estimator.state_dict()
    again = first_round(selector, pool, estimator, 9)[1]
    seen = [pick for pick in again if pick.prompt.key in state.values["keys"]]
    assert seen
    for pick in again:
        expected = estimator.predict([Candidate(pick.prompt.key, "")], Context(G, 9))
        assert (pick.predicted_mean, pick.predicted_informative) == (
            expected.mean[0],
            expected.p_informative[0],
        )


def test_pass_boundary_within_a_step_never_picks_a_prompt_twice() -> None:
    selector = selector_of(prompts=8, type="uniform", max_rounds=4)
    pool = pool_of(20)
    for step in range(1, 30):
        groups = run_step(selector, pool, UniformEstimator(), step)
        picked = [g.pick.prompt.key for g in groups]
        assert len(set(picked)) == len(picked)


@pytest.mark.parametrize("kind", ["uniform", "thompson"])
def test_pool_smaller_than_the_batch_is_picked_once_each(kind: str) -> None:
    selector, pool = selector_of(prompts=16, type=kind, min_window=0, audit=0.3), pool_of(5)
    open_step, picks = first_round(selector, pool, MoppsEstimator(), 1)
    assert sorted(keys(picks)) == sorted(prompt.key for prompt in pool.prompts)
    assert selector.pick(open_step, pool, MoppsEstimator(), rolled_out(picks, 1)) == []


# ---------------------------------------------------------------- audit


def test_audit_share_is_epsilon_in_the_long_run_and_in_every_step_to_the_next_prompt() -> None:
    pool, estimator = pool_of(60), MoppsEstimator()
    for epsilon, prompts in ((0.05, 16), (0.1, 20), (0.3, 7)):
        selector = selector_of(prompts=prompts, audit=epsilon, min_window=0)
        counts = []
        for step in range(1, 401):
            picks = first_round(selector, pool, estimator, step)[1]
            assert len(set(keys(picks))) == len(picks) == prompts
            counts.append(sum(pick.origin == Origin.AUDIT for pick in picks))
        expected = epsilon * prompts
        assert set(counts) <= {math.floor(expected + 1e-9), math.ceil(expected - 1e-9)}
        fraction = expected % 1
        assert np.mean(counts) == pytest.approx(
            expected, abs=3.3 * math.sqrt(fraction * (1 - fraction) / 400) + 1e-9
        )


def test_audit_is_drawn_from_the_whole_pool_whatever_the_estimator_says() -> None:
    pool = pool_of(50)
    selector = selector_of(prompts=10, audit=0.5, min_window=0)
    drawn = dict.fromkeys((prompt.key for prompt in pool.prompts), 0)
    for step in range(1, 1001):
        for pick in first_round(selector, pool, Oracle(pool), step)[1]:
            if pick.origin == Origin.AUDIT:
                assert pick.uniform
                assert pick.propensity == 0.5 / 50
                drawn[pick.prompt.key] += 1
            else:
                assert (pick.uniform, pick.selector) == (False, "thompson")
                assert math.isnan(pick.propensity)
    counts = np.array(list(drawn.values()))  # binomial(1000, 5/50) each
    assert counts.sum() == 5000
    chi_square = ((counts - 100) ** 2 / (100 * 0.9)).sum()
    assert 25 < chi_square < 85  # mean 49, 99.9 % of its distribution


# ---------------------------------------------------------------- thompson


def test_thompson_with_sharp_beliefs_takes_the_most_informative_prompts() -> None:
    pool = pool_of(200)
    selector = selector_of(prompts=10, audit=0, min_window=0)
    picks = first_round(selector, pool, Oracle(pool), 1)[1]
    worth = {
        prompt.key: informative_probability(np.array([pass_rate(prompt)]), G)[0] for prompt in pool.prompts
    }
    best = sorted(worth.values(), reverse=True)
    assert min(worth[key] for key in keys(picks)) > best[25]


def test_thompson_finds_informative_groups_more_often_than_uniform_selection() -> None:
    shares = {}
    for kind in ("uniform", "thompson"):
        groups: list[Group] = []
        for seed in range(2):
            selector = selector_of(prompts=32, seed=seed, type=kind, refill=False, min_window=0, audit=0.05)
            pool, estimator = pool_of(400, seed), MoppsEstimator(0.25, 0.25)
            for step in range(1, 41):
                found = run_step(selector, pool, estimator, step)
                groups += found if step > 20 else []
        shares[kind] = np.mean([g.informative for g in groups])
    assert shares["uniform"] < 0.35
    assert shares["thompson"] > shares["uniform"] + 0.3


def test_equal_scores_are_taken_in_random_order() -> None:
    first = top(np.array([1.0, 1.0, 0.5, 1.0]), 3, np.random.default_rng(0)).tolist()
    assert set(first) == {0, 1, 3}
    orders = {tuple(top(np.ones(4), 4, np.random.default_rng(seed))) for seed in range(300)}
    assert len(orders) == 24


def test_beliefs_that_are_no_probabilities_are_an_error_naming_the_estimator() -> None:
    class Broken(MoppsEstimator):
        def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
            estimates = super().predict(candidates, context)
            estimates.p_informative[0] = np.nan
            return estimates

    with pytest.raises(ValueError, match=r"Broken: p_informative .* 1 outside"):
        first_round(selector_of(), pool_of(40), Broken(), 1)


# ---------------------------------------------------------------- gate


def test_selection_opens_once_the_estimator_is_proved_and_fails_open_when_it_goes_bad() -> None:
    class Turncoat(Oracle):
        lies = False

        def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
            estimates = super().predict(candidates, context)
            if not self.lies:
                return estimates
            wrong = 1 - estimates.p_informative
            return Estimates(estimates.mean, estimates.sd, wrong, wrong, wrong, estimates.sample)

        def observe(self, observations: Sequence[Observation], context: Context) -> dict[str, float]:
            return {}

    pool = pool_of(300)
    estimator, selector = (
        Turncoat(pool),
        selector_of(prompts=16, min_window=100, window=200, audit=0.25, refill=False),
    )
    active = []
    for step in range(1, 61):
        estimator.lies = step > 20
        groups = run_step(selector, pool, estimator, step)
        active.append(not all(g.pick.uniform for g in groups))
        assert selector.metrics()["selection/active"] in (0.0, 1.0)
    assert active.index(True) == 7  # 112 groups after seven steps of 16
    assert all(active[7:20])
    assert not any(active[50:])


def test_a_step_is_blind_as_long_as_the_estimator_tells_no_prompts_apart() -> None:
    """mopps knows nothing before its first visit; one prompt alone cannot show whether it does."""
    pool, estimator = pool_of(40), MoppsEstimator()
    selector = selector_of(prompts=30, refill=False, min_window=40, window=100, revisit_after=None)
    for step in (1, 2, 3):
        run_step(selector, pool, estimator, step)
    assert [one.blind for one in selector.calibration.graded] == [True] * 30 + [False] * 60
    alone = selector_of(prompts=1, refill=False, min_window=40, window=100)
    run_step(alone, pool, MoppsEstimator(), 1)
    assert [one.blind for one in alone.calibration.graded] == [False]


def test_only_uniform_draws_with_two_verdicts_are_graded() -> None:
    selector, pool = selector_of(prompts=20, audit=0.25, min_window=0), pool_of(100)
    open_step, picks = first_round(selector, pool, MoppsEstimator(), 1)
    audits = [pick for pick in picks if pick.origin == Origin.AUDIT]
    groups = [group(pick, [True, False]) for pick in picks if pick not in audits]
    groups += [group(audits[0], [None, True]), group(audits[1], [None, None])]
    groups += [group(pick, [True, False, None]) for pick in audits[2:]]
    selector.observe(open_step, groups)
    assert len(audits) == 5
    assert selector.metrics()["calibration/groups"] == 3


# ---------------------------------------------------------------- rounds


def test_without_refill_there_is_one_round() -> None:
    selector, pool = selector_of(type="uniform", refill=False), pool_of(100)
    open_step, picks = first_round(selector, pool, UniformEstimator(), 1)
    assert len(picks) == 16
    assert selector.pick(open_step, pool, UniformEstimator(), [group(p, [False] * G) for p in picks]) == []


@pytest.mark.parametrize(
    ("informative", "expected"),
    [
        (16, 0),  # full
        (12, 6),  # 4 missing at a yield of 12/16: ⌈5.33⌉
        (8, 16),  # 8 missing at 1/2
        (15, 2),  # 1 missing at 15/16: ⌈1.07⌉
        (4, 16),  # 12 missing at 1/4 would be 48: no round is larger than the first
        (0, 16),
    ],
)
def test_refill_round_is_sized_by_what_is_missing_and_the_measured_yield(
    informative: int, expected: int
) -> None:
    selector, pool = selector_of(type="uniform"), pool_of(200)
    open_step, picks = first_round(selector, pool, UniformEstimator(), 1)
    done = [group(pick, [i < informative] + [False] * (G - 1)) for i, pick in enumerate(picks)]
    refill = selector.pick(open_step, pool, UniformEstimator(), done)
    assert len(refill) == expected
    assert {pick.origin for pick in refill} <= {Origin.REFILL}
    assert not set(keys(refill)) & set(keys(picks))


def test_yield_of_earlier_steps_counts_and_has_a_floor_of_one_eighth() -> None:
    selector, pool = selector_of(type="uniform", refill=True, max_rounds=2), pool_of(400)
    open_step, picks = first_round(selector, pool, UniformEstimator(), 1)
    selector.observe(open_step, [group(pick, [True, False]) for pick in picks])
    assert selector.expected_yield("uniform") == 1.0
    open_step, picks = first_round(selector, pool, UniformEstimator(), 2)
    done = [group(pick, [i < 14, False]) for i, pick in enumerate(picks)]
    assert selector.expected_yield("uniform", done) == 30 / 32
    assert len(selector.pick(open_step, pool, UniformEstimator(), done)) == math.ceil(2 / (30 / 32))
    for step in range(3, 40):
        open_step, picks = first_round(selector, pool, UniformEstimator(), step)
        selector.observe(open_step, [group(pick, [False, False]) for pick in picks])
    assert selector.expected_yield("uniform") == 1 / 8


def test_audit_groups_do_not_count_towards_the_yield_of_the_rule() -> None:
    selector, pool = selector_of(prompts=20, audit=0.5, min_window=0), pool_of(200)
    open_step, picks = first_round(selector, pool, MoppsEstimator(), 1)
    done = [group(pick, [pick.origin != Origin.AUDIT, False]) for pick in picks]
    assert selector.expected_yield("thompson", done) == 1.0
    assert len(selector.pick(open_step, pool, MoppsEstimator(), done)) == 10


def test_rounds_end_at_max_rounds_and_refills_bring_no_audit() -> None:
    selector, pool = selector_of(prompts=8, min_window=0, audit=0.5, max_rounds=3), pool_of(200)
    done: list[Group] = []
    rounds = []
    open_step = selector.begin(Context(G, 1))
    while picks := selector.pick(open_step, pool, MoppsEstimator(), done):
        rounds.append([pick.origin for pick in picks])
        done += [group(pick, [False] * G) for pick in picks]
    assert [len(origins) for origins in rounds] == [8, 8, 8]
    assert rounds[0].count(Origin.AUDIT) == 4
    assert set(rounds[1] + rounds[2]) == {Origin.REFILL}
    assert len({g.pick.prompt.key for g in done}) == 24


def test_unscorable_groups_do_not_fill_the_batch() -> None:
    selector, pool = selector_of(prompts=4, type="uniform"), pool_of(40)
    open_step, picks = first_round(selector, pool, UniformEstimator(), 1)
    done = [group(pick, [True, False]) for pick in picks[:3]] + [group(picks[3], [None, True])]
    assert len(selector.pick(open_step, pool, UniformEstimator(), done)) == 2


# ---------------------------------------------------------------- keyed draws, state


def test_picks_depend_on_seed_and_step_and_on_nothing_before() -> None:
    pool, estimator = pool_of(300), MoppsEstimator()

    def picks(seed: int, step: int, earlier: Sequence[int] = ()) -> list[str]:
        selector = selector_of(seed=seed, min_window=0, audit=0.2)
        for other in earlier:
            first_round(selector, pool, estimator, other)
        return keys(first_round(selector, pool, estimator, step)[1])

    assert picks(0, 7) == picks(0, 7, earlier=(1, 2, 7, 3))
    assert picks(0, 7) != picks(0, 8)
    assert picks(0, 7) != picks(1, 7)


def test_refill_round_draws_anew_rather_than_repeating_the_first() -> None:
    """With the same generator the second round would score each prompt as the first round did."""
    pool, estimator = pool_of(60), UniformEstimator()
    selector = selector_of(prompts=20, audit=0, min_window=0)
    open_step, first = first_round(selector, pool, estimator, 1)
    selector_without_first = selector_of(prompts=40, audit=0, min_window=0)
    both = first_round(selector_without_first, pool, estimator, 1)[1]
    assert keys(first) == keys(both[:20])
    second = selector.pick(open_step, pool, estimator, [group(pick, [False] * G) for pick in first])
    assert keys(second) != keys(both[20:])


def test_resumed_run_picks_what_the_uninterrupted_one_would_have() -> None:
    def things() -> tuple[Selector, PromptPool, MoppsEstimator]:
        return selector_of(min_window=60, window=100, audit=0.1), pool_of(150), MoppsEstimator(0.25, 0.25)

    selector, pool, estimator = things()
    for step in range(1, 16):
        run_step(selector, pool, estimator, step)
    resumed, resumed_pool, resumed_estimator = things()
    resumed.load_state_dict(json.loads(json.dumps(selector.state_dict(), allow_nan=False)), pool)
    resumed_pool.load_state_dict(pool.state_dict())
    resumed_estimator.load_state_dict(estimator.state_dict())
    modes = set()
    for step in range(16, 31):
        expected = run_step(selector, pool, estimator, step)
        found = run_step(resumed, resumed_pool, resumed_estimator, step)
        assert str([g.pick for g in found]) == str([g.pick for g in expected])  # as text: NaN equals NaN
        modes |= {g.pick.selector for g in found}
    assert "thompson" in modes
    assert resumed.state_dict() == selector.state_dict()


def test_state_of_another_version_is_an_error() -> None:
    state = selector_of().state_dict() | {"schema_version": 0}
    with pytest.raises(ValueError, match="schema_version 0"):
        selector_of().load_state_dict(state, pool_of(1))


# ---------------------------------------------------------------- assign


def test_first_groups_with_signal_in_request_order_are_trained_whatever_finished_first() -> None:
    selector, pool = selector_of(prompts=4, type="uniform"), pool_of(40)
    open_step, first = first_round(selector, pool, UniformEstimator(), 1)
    none = [group(pick, [False] * G) for pick in first]
    second = selector.pick(open_step, pool, UniformEstimator(), none)
    third = selector.pick(open_step, pool, UniformEstimator(), none + [group(p, [False] * G) for p in second])
    verdicts: dict[str, list[bool | None]] = {key: [True, False] for key in keys([*first, *second, *third])}
    verdicts[first[0].prompt.key] = [True, True]
    verdicts[first[1].prompt.key] = [None, False]
    verdicts[second[0].prompt.key] = [True, None, False]
    expected = [Outcome.ZERO_VARIANCE, Outcome.UNSCORABLE] + [Outcome.TRAINED] * 4 + [Outcome.SURPLUS] * 6
    for seed in range(10):
        groups = [group(pick, verdicts[pick.prompt.key]) for pick in [*first, *second, *third]]
        finished = [groups[i] for i in np.random.default_rng(seed).permutation(len(groups))]
        trained = selector.assign(open_step, finished)
        assert [g.outcome for g in groups] == expected
        assert [id(g) for g in trained] == [id(g) for g in groups[2:6]]
    assert groups[4].outcome_of(1) == Outcome.UNSCORABLE
    assert groups[4].outcome_of(2) == Outcome.TRAINED


def test_group_that_nobody_picked_is_an_error() -> None:
    selector, pool = selector_of(), pool_of(40)
    open_step, picks = first_round(selector, pool, UniformEstimator(), 1)
    stranger = next(prompt for prompt in pool.prompts if prompt.key not in keys(picks))
    pick = Pick(stranger, Origin.SELECTED, "uniform", True, 1 / 40, 0.5, 0.5)
    for call in (selector.assign, selector.observe):
        with pytest.raises(ValueError, match="was not picked in this step"):
            call(open_step, [group(pick, [True, False])])
