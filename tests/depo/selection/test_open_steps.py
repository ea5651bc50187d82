"""Several steps open at once: what they share, what they do not, and what a checkpoint keeps of them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from synthetic_pool import G, Oracle, first_round, group, keys, pool_of, rolled_out, run_step, selector_of

from depo.estimators.base import Context, Observation
from depo.estimators.mopps import MoppsEstimator
from depo.selection import OpenStep, SelectionSettings, Selector
from depo.selection.pool import PromptPool
from depo.selection.rules import Thompson
from depo.types import Group, Outcome, Pick, Prompt

OPTIONS = {"min_window": 0, "audit": 0.25, "cooldown": 2, "revisit_after": 4, "candidates": 40}


class Informed(Oracle):
    """Knows p, and learns nothing."""

    def observe(self, observations: Sequence[Observation], context: Context) -> dict[str, float]:
        return {}


def after_three_steps(**options: object) -> tuple[Selector, PromptPool, Informed]:
    """Refilled, with audit, cooldown and reserved places, unless the options say otherwise."""
    pool = pool_of(200)
    selector, estimator = selector_of(prompts=8, **(OPTIONS | options)), Informed(pool)
    for step in (1, 2, 3):
        run_step(selector, pool, estimator, step)
    return selector, pool, estimator


def told(picks: Sequence[Pick]) -> list[str]:
    return [str(pick) for pick in picks]  # as text: NaN equals NaN


def outcomes(groups: Sequence[Group]) -> dict[str, Outcome | None]:
    return {g.pick.prompt.key: g.outcome for g in groups}


@pytest.mark.parametrize("rule", ["thompson", "window", "gumbel", "greedy"])
def test_two_interleaved_steps_pick_and_end_as_each_does_alone(rule: str) -> None:
    """Together, they pick round by round in turn, and the later one is observed and assigned first."""
    alone = {}
    for step in (4, 5):
        selector, pool, estimator = after_three_steps(type=rule)
        open_step, groups = selector.begin(Context(G, step)), []
        while picks := selector.pick(open_step, pool, estimator, groups):
            groups += rolled_out(picks, step)
        trained = selector.assign(open_step, groups)
        alone[step] = told(open_step.picks), outcomes(groups), keys([g.pick for g in trained])

    selector, pool, estimator = after_three_steps(type=rule)
    steps = {step: selector.begin(Context(G, step)) for step in (4, 5)}
    together: dict[int, list[Group]] = {4: [], 5: []}
    going = {4, 5}
    while going:
        for step in sorted(going):
            picks = selector.pick(steps[step], pool, estimator, together[step])
            together[step] += rolled_out(picks, step)
            going -= set() if picks else {step}
    assert steps[4].rounds > 1
    for step in (5, 4):
        selector.observe(steps[step], together[step])
        trained = selector.assign(steps[step], together[step])
        found = told(steps[step].picks), outcomes(together[step]), keys([g.pick for g in trained])
        assert found == alone[step]
    assert selector.open_steps == []


@pytest.mark.parametrize("rule", ["uniform", "skip"])
def test_steps_that_follow_the_pools_order_share_it(rule: str) -> None:
    """Open together, they are handed what they would be one after the other, as if both were certain."""

    class Certain(MoppsEstimator):
        def predict(self, candidates, context):
            estimates = super().predict(candidates, context)
            estimates.p_informative[:] = 1.0
            return estimates

    options = {"type": rule, "refill": False, "min_window": 0, "audit": 0}
    selector, pool, reference = selector_of(prompts=8, **options), pool_of(200), pool_of(200)
    first, second = (first_round(selector, pool, Certain(), step)[1] for step in (1, 2))
    assert keys([*first, *second]) == [prompt.key for prompt in reference.next(16)]


def test_picks_depend_on_what_was_observed_before_them_and_on_nothing_observed_later() -> None:
    """With a cooldown, greedy does not return to prompts once their step is observed; until then it does."""
    picked = {}
    for observed in (False, True):
        selector, pool = selector_of(prompts=8, type="greedy", min_window=0, audit=0, cooldown=5), pool_of(60)
        earlier, picks = first_round(selector, pool, Oracle(pool), 1)
        if observed:
            selector.observe(earlier, [group(pick, [True, False]) for pick in picks])
        later = first_round(selector, pool, Oracle(pool), 2)[1]
        picked[observed] = set(keys(picks)) & set(keys(later))
        if not observed:
            before = told(later)
            selector.observe(earlier, [group(pick, [True, False]) for pick in picks])
            assert told(selector.open_steps[1].picks) == before
    assert picked[False]
    assert not picked[True]


def test_the_rule_in_force_is_settled_when_a_step_begins() -> None:
    """The gate opens on what step 1 shows; step 2 began before, its refill is uniform too."""
    pool = pool_of(300)
    selector = selector_of(prompts=40, min_window=40, window=40, refill=True)
    first, picks = first_round(selector, pool, Oracle(pool), 1)
    second, later = first_round(selector, pool, Oracle(pool), 2)
    selector.observe(first, rolled_out(picks, 1))
    assert selector.metrics()["selection/active"] == 1.0
    refill = selector.pick(second, pool, Oracle(pool), rolled_out(later, 2))
    assert {pick.selector for pick in refill} == {"uniform"}
    third = first_round(selector, pool, Oracle(pool), 3)[1]
    assert "thompson" in {pick.selector for pick in third}


def test_visits_remember_the_latest_step_in_whatever_order_steps_are_observed() -> None:
    selector, pool = selector_of(prompts=10, type="greedy", min_window=0, audit=0), pool_of(10)
    steps = [first_round(selector, pool, Oracle(pool), step) for step in (1, 2)]
    for open_step, picks in reversed(steps):
        selector.observe(open_step, [group(pick, [True, False]) for pick in picks])
    assert selector.visits.waited(pool.prompts, 2).tolist() == [0] * 10
    assert selector.visits.counts(pool.prompts).tolist() == [2] * 10


def test_a_step_is_closed_once_its_groups_are_observed_and_assigned() -> None:
    selector, pool = selector_of(prompts=4), pool_of(40)
    for order in ("observe first", "assign first", "in pieces"):
        open_step, picks = first_round(selector, pool, MoppsEstimator(), 1)
        groups = [group(pick, [True, False]) for pick in picks]
        if order == "assign first":
            selector.assign(open_step, groups)
        elif order == "observe first":
            selector.observe(open_step, groups)
        else:
            selector.observe(open_step, groups[2:])
            selector.assign(open_step, groups)
        assert selector.open_steps == [open_step]
        if order == "observe first":
            selector.assign(open_step, groups)
        else:
            selector.observe(open_step, groups[:2] if order == "in pieces" else groups)
        assert selector.open_steps == []
    given_up = selector.begin(Context(G, 2))
    selector.assign(given_up, [])
    assert selector.open_steps == []


def test_groups_of_another_step_and_groups_seen_before_are_refused() -> None:
    """Both steps hold the same four prompts, the whole pool: the key alone does not tell them apart."""
    selector, pool = selector_of(prompts=4, type="uniform"), pool_of(4)
    (first, picks), (second, others) = (first_round(selector, pool, MoppsEstimator(), s) for s in (1, 2))
    assert set(keys(picks)) == set(keys(others))
    foreign = [group(pick, [True, False]) for pick in others]
    for call in (selector.observe, selector.assign, lambda *at: selector.pick(at[0], pool, None, at[1])):
        with pytest.raises(ValueError, match=r"was picked in this step \(1\), .* answers a pick of another"):
            call(first, foreign)
    assert selector.visits.counts(pool.prompts).tolist() == [0] * 4
    selector.observe(second, foreign)
    with pytest.raises(ValueError, match="has been observed already"):
        selector.observe(second, foreign[:1])
    assert selector.visits.counts(pool.prompts).tolist() == [1] * 4


def test_a_group_with_one_rollout_of_too_old_a_policy_is_stale_and_leaves_its_place_to_another() -> None:
    selector, pool = selector_of(prompts=4, type="uniform"), pool_of(40)
    open_step, picks = first_round(selector, pool, MoppsEstimator(), 9)
    groups = [group(pick, [True, False]) for pick in picks[:3]] + [group(picks[3], [None, None])]
    for one in groups:
        for rollout in one.rollouts:
            rollout.policy_version = 7
    groups[1].rollouts[1].policy_version = groups[3].rollouts[0].policy_version = 6
    trained = selector.assign(open_step, groups, oldest=7)
    assert trained == [groups[0], groups[2]]
    assert [one.outcome for one in groups] == [
        Outcome.TRAINED,
        Outcome.STALE,
        Outcome.TRAINED,
        Outcome.UNSCORABLE,
    ]


# ---------------------------------------------------------------- checkpoints


def probe(prompts: Sequence[Prompt]) -> np.ndarray:
    return np.array([[int(prompt.key[:6], 16) / 3, 0.1] for prompt in prompts], dtype=np.float32)


def asking(seed: int = 0) -> Selector:
    settings = SelectionSettings(
        8, refill=True, audit=0.25, min_window=0, candidates=40, revisit_after=4, max_rounds=3
    )
    return Selector(settings, Thompson(), seed, probe)


def finish(selector: Selector, pool: PromptPool, estimator: Informed) -> tuple[list[object], object]:
    """Step 5, then step 4: the refills that are still due, observation, assignment; then a new step."""
    found: list[object] = []
    for open_step in reversed(list(selector.open_steps)):
        step = open_step.context.step
        groups = rolled_out(open_step.picks, step)
        refills = 0
        while picks := selector.pick(open_step, pool, estimator, groups):
            groups += rolled_out(picks, step)
            refills += 1
        selector.observe(open_step, groups)
        trained = selector.assign(open_step, groups)
        found += [
            told(open_step.picks),
            refills,
            list(outcomes(groups).items()),
            keys([g.pick for g in trained]),
        ]
    found.append(told(first_round(selector, pool, estimator, 6)[1]))
    return found, json.dumps(selector.state_dict())


def test_a_checkpoint_with_two_open_steps_goes_on_as_if_nothing_had_happened() -> None:
    """Step 4 has two rounds behind it and was observed in part, step 5 has one."""
    pool = pool_of(200)
    selector, estimator = asking(), Informed(pool)
    for step in (1, 2, 3):
        run_step(selector, pool, estimator, step)
    fourth, picks = first_round(selector, pool, estimator, 4)
    selector.pick(fourth, pool, estimator, rolled_out(picks, 4))
    first_round(selector, pool, estimator, 5)
    assert {pick.selector for pick in fourth.picks} == {"thompson", "uniform"}

    restored, restored_pool = asking(), pool_of(200)
    state = json.loads(json.dumps(selector.state_dict(), allow_nan=False))
    restored_pool.load_state_dict(json.loads(json.dumps(pool.state_dict())))
    restored.load_state_dict(state, restored_pool)
    assert [told(step.picks) for step in restored.open_steps] == [
        told(step.picks) for step in selector.open_steps
    ]
    assert restored.open_steps[0].picks[0].features.dtype == np.float32
    assert finish(restored, restored_pool, estimator) == finish(selector, pool, estimator)


def test_what_was_observed_before_a_checkpoint_is_not_observed_again_after_it() -> None:
    selector, pool = selector_of(prompts=4, type="uniform"), pool_of(40)
    open_step, picks = first_round(selector, pool, MoppsEstimator(), 1)
    selector.observe(open_step, [group(pick, [True, False]) for pick in picks[:2]])
    selector.assign(open_step, [group(pick, [True, False]) for pick in picks])
    restored = selector_of(prompts=4, type="uniform")
    restored.load_state_dict(json.loads(json.dumps(selector.state_dict(), allow_nan=False)), pool)
    (again,) = restored.open_steps
    groups = [group(pick, [True, False]) for pick in again.picks]
    with pytest.raises(ValueError, match="has been observed already"):
        restored.observe(again, groups[:1])
    restored.observe(again, groups[2:])
    assert restored.open_steps == []


def test_an_open_step_with_a_prompt_that_the_pool_has_lost_is_an_error() -> None:
    selector, pool = selector_of(prompts=4, type="uniform"), pool_of(40)
    picks = first_round(selector, pool, MoppsEstimator(), 1)[1]
    rest = PromptPool([prompt for prompt in pool.prompts if prompt.key != picks[0].prompt.key], 0)
    with pytest.raises(ValueError, match=f"{picks[0].prompt.key} was picked before the checkpoint"):
        selector_of(prompts=4, type="uniform").load_state_dict(selector.state_dict(), rest)


def test_a_state_between_two_steps_holds_none_that_are_open() -> None:
    selector, pool = selector_of(prompts=4), pool_of(40)
    run_step(selector, pool, MoppsEstimator(), 1)
    assert selector.state_dict()["open_steps"] == []
    assert isinstance(selector.begin(Context(G, 2)), OpenStep)
