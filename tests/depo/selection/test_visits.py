from __future__ import annotations

import json

import numpy as np
import pytest
from synthetic_pool import group, pool_of

from depo.selection.visits import Visits
from depo.types import Group, Origin, Pick, Prompt


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
    assert len(visits) == 0


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
