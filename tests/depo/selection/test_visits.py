"""What is remembered of visited prompts: lengths, waits, rest, coverage."""

from __future__ import annotations

import json

import numpy as np
import pytest
from synthetic_pool import group, pool_of

from depo.reward.base import Score, unscorable
from depo.selection.visits import Visits
from depo.types import Group, Origin, Pick, Prompt, Rollout


def visit(prompt: Prompt, lengths: list[int]) -> Group:
    pick = Pick(prompt, Origin.SELECTED, "uniform", True, 0.1, 0.5, 0.5)
    found = group(pick, [True] * len(lengths))
    for rollout, length in zip(found.rollouts, lengths, strict=True):
        rollout.token_ids = np.zeros(length, np.int32)
    return found


def test_expected_tokens_are_a_moving_mean_and_the_pools_mean_where_unvisited() -> None:
    """a: groups of mean 10, then 20: 15. b: 5. Unvisited: (15 + 5) / 2."""
    a, b, c = pool_of(3).prompts
    visits = Visits()
    assert visits.tokens([a, b]).tolist() == [1.0, 1.0]
    visits.record([visit(a, [8, 12]), visit(b, [5, 5])], step=1)
    visits.record([visit(a, [20, 20])], step=4)
    assert visits.tokens([a, b, c]).tolist() == [15.0, 5.0, 10.0]
    assert visits.waited([a, b, c], step=6).tolist() == [2, 5, 6]
    assert visits.since(2) == {a.key}


def test_group_without_rollouts_is_no_visit() -> None:
    a = pool_of(1).prompts[0]
    visits = Visits()
    visits.record([visit(a, [])], step=3)
    assert visits.coverage(1) == {}


def test_state_round_trips_exactly_through_json() -> None:
    prompts = pool_of(20).prompts
    first, second = Visits(), Visits()
    for step in range(1, 5):
        first.record([visit(prompt, [step, 3, i]) for i, prompt in enumerate(prompts[:15])], step)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    np.testing.assert_array_equal(first.tokens(prompts), second.tokens(prompts))
    np.testing.assert_array_equal(first.waited(prompts, 9), second.waited(prompts, 9))
    assert first.state_dict() == second.state_dict()


# ---------------------------------------------------------------- rest of what cannot be verified


def judged(prompt: Prompt, verdicts: list[bool | None]) -> Group:
    return group(Pick(prompt, Origin.SELECTED, "uniform", True, 0.1, 0.5, 0.5), verdicts)


@pytest.mark.parametrize("without", [[None, None, None], [None, True, None]], ids=["none", "one verdict"])
def test_rest_begins_with_the_second_group_without_verdicts_and_doubles(without: list[bool | None]) -> None:
    """k groups in a row give 2^k steps: 4 after the second, 8 after the third."""
    a = pool_of(1).prompts[0]
    visits = Visits()
    visits.record([judged(a, without)], step=1)
    assert visits.resting(2) == set()
    for step, length in ((2, 4), (10, 8), (20, 16)):
        visits.record([judged(a, without)], step)
        assert visits.resting(step + 1) == visits.resting(step + length) == {a.key}
        assert visits.resting(step + length + 1) == set()


def test_a_group_with_verdicts_ends_the_rest_and_the_count() -> None:
    a, b = pool_of(2).prompts
    visits = Visits()
    for step in (1, 2, 3):
        visits.record([judged(a, [None, None]), judged(b, [None, None])], step)
    visits.record([judged(a, [False, False])], step=4)
    assert visits.resting(5) == {b.key}
    visits.record([judged(a, [None, None])], step=5)
    assert visits.resting(6) == {b.key}, "one group without verdicts is no reason to rest"


def test_rest_is_part_of_the_state_and_states_without_it_are_read() -> None:
    a, b = pool_of(2).prompts
    first, second = Visits(), Visits()
    for step in (1, 2):
        first.record([judged(a, [None, None]), judged(b, [True, False])], step)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.resting(6) == {a.key}
    for visits in (first, second):
        visits.record([judged(a, [None, None])], step=7)
        assert visits.resting(15) == {a.key}
    earlier = {key: values[:4] for key, values in first.state_dict().items()}
    second.load_state_dict(earlier)
    assert second.resting(8) == set()
    assert second.counts([a, b]).tolist() == [3, 2]


# ---------------------------------------------------------------- coverage: four prompts told by hand


def told_group(key: str, verdicts: list[bool | None]) -> Group:
    pick = Pick(Prompt(key, key, (), ""), Origin.SELECTED, "thompson", False, float("nan"), 0.5, 0.5)
    rollouts = [
        Rollout(key, i, i, np.zeros(1, np.int32), np.zeros(1, np.float32), "stop", 0)
        for i in range(len(verdicts))
    ]
    scores = [unscorable("timeout") if v is None else Score(float(v), v) for v in verdicts]
    return Group(pick, rollouts, scores, [""] * len(verdicts))


MIXED, WRONG = [True, False], [False, False]


def told() -> Visits:
    visits = Visits()
    visits.record([told_group("often", WRONG), told_group("early", MIXED), told_group("lost", MIXED)], 1)
    visits.record([told_group("often", MIXED), told_group("lost", WRONG)], 2)
    visits.record([told_group("often", MIXED)], 5)
    visits.record([told_group("late", MIXED)], 8)
    return visits


def test_starved_prompts_were_informative_last_and_visited_fewer_than_three_times() -> None:
    """Informative: often (3 visits), early (1), late (1); not lost, whose latest group was all wrong."""
    metrics = told().coverage(10)
    assert metrics["prompts_visited"] == 4
    assert metrics["prompts_informative"] == 3
    assert metrics["starvation"] == pytest.approx(2 / 3)


def test_steps_since_the_last_visit_are_percentiles_over_visited_prompts() -> None:
    since = [10 - 5, 10 - 1, 10 - 2, 10 - 8]
    metrics = told().coverage(10)
    for percent in (50, 90, 99):
        assert metrics[f"since_visit_p{percent}"] == pytest.approx(np.percentile(since, percent))


def test_nothing_is_said_before_the_first_visit_or_about_starvation_while_nothing_is_informative() -> None:
    visits = Visits()
    assert visits.coverage(3) == {}
    visits.record([told_group("a", WRONG)], 3)
    assert "starvation" not in visits.coverage(3)


def test_group_without_verdicts_is_a_visit_that_does_not_change_what_is_known() -> None:
    visits = Visits()
    visits.record([told_group("a", MIXED)], 1)
    visits.record([told_group("a", [None, True])], 2)
    assert visits.count("a") == 2
    assert visits.count("never") == 0
    assert visits.coverage(2)["starvation"] == 1.0


def test_state_round_trips_through_json() -> None:
    visits, other = told(), Visits()
    visits.record([told_group("unknown", [None, None])], 9)
    state = json.loads(json.dumps(visits.state_dict(), allow_nan=False))
    other.load_state_dict(state)
    assert other.state_dict() == visits.state_dict()
    for one in (visits, other):
        one.record([told_group("early", MIXED), told_group("unknown", MIXED)], 11)
    assert other.coverage(12) == visits.coverage(12)
