from __future__ import annotations

import json

import numpy as np
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
