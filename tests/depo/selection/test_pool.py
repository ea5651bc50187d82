"""PromptPool: every pass serves every prompt once, in an order that is a function of seed and keys."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depo.data import prompt_key
from depo.errors import UserError
from depo.selection.pool import PromptPool
from depo.types import Prompt


def make_prompts(count: int) -> list[Prompt]:
    return [Prompt(prompt_key(f"q{i}"), f"q{i}", (i,), str(i)) for i in range(count)]


def texts(prompts: list[Prompt]) -> list[str]:
    return [prompt.text for prompt in prompts]


@given(size=st.integers(1, 12), calls=st.lists(st.integers(0, 12), max_size=12), seed=st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_no_prompt_twice_in_a_call_and_none_served_twice_more_than_another(size, calls, seed):
    pool = PromptPool(make_prompts(size), seed)
    served: Counter[str] = Counter({prompt.key: 0 for prompt in pool.prompts})
    for n in (min(n, size) for n in calls):
        batch = pool.next(n)
        assert len({prompt.key for prompt in batch}) == len(batch) == n
        served.update(prompt.key for prompt in batch)
        # A deferred prompt may trail the pass by one call, never by a pass.
        assert max(served.values()) - min(served.values()) <= 2


def test_every_pass_serves_every_prompt_once():
    pool = PromptPool(make_prompts(10), seed=5)
    stream = [prompt for _ in range(12) for prompt in pool.next(5)]
    for start in range(0, 60, 10):
        assert sorted(texts(stream[start : start + 10])) == sorted(texts(pool.prompts))


def test_deferred_prompts_come_next_call_and_none_is_lost():
    pool = PromptPool(make_prompts(5), seed=0)
    stream = [prompt for _ in range(25) for prompt in pool.next(3)]
    assert set(Counter(texts(stream)).values()) == {15}


def test_passes_differ_and_depend_on_the_seed():
    first, second = PromptPool(make_prompts(30), 1), PromptPool(make_prompts(30), 2)
    pass_one, pass_two = texts(first.next(30)), texts(first.next(30))
    assert pass_one != pass_two
    assert pass_one != texts(second.next(30))


def test_order_and_candidates_do_not_depend_on_the_order_of_the_file():
    prompts = make_prompts(30)
    forward, backward = PromptPool(prompts, 7), PromptPool(prompts[::-1], 7)
    assert texts(forward.next(45)) == texts(backward.next(45))
    draw = [texts(pool.candidates(8, np.random.default_rng(3))) for pool in (forward, backward)]
    assert draw[0] == draw[1]


def test_more_than_the_pool_holds_serves_all_equally_often():
    pool = PromptPool(make_prompts(4), 0)
    counts = Counter(texts(pool.next(10)))
    assert sorted(counts.values()) == [2, 2, 3, 3]


def test_candidates_are_distinct_uniform_and_leave_the_position_alone():
    pool, untouched = PromptPool(make_prompts(6), 0), PromptPool(make_prompts(6), 0)
    rng = np.random.default_rng(0)
    counts: Counter[str] = Counter()
    draws = 6000
    for _ in range(draws):
        batch = pool.candidates(2, rng)
        assert len({prompt.key for prompt in batch}) == 2
        counts.update(texts(batch))
    expected = draws * 2 / 6
    # Chi-squared with 5 degrees of freedom: 20.5 is its 0.999 quantile.
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 20.5
    assert len(pool.candidates(100, rng)) == 6
    assert texts(pool.next(6)) == texts(untouched.next(6))


@given(st.lists(st.integers(0, 9), max_size=6), st.lists(st.integers(0, 9), max_size=6))
@settings(max_examples=100, deadline=None)
def test_a_restored_pool_goes_on_where_the_saved_one_was(before, after):
    pool = PromptPool(make_prompts(7), seed=3)
    for n in before:
        pool.next(n)
    restored = PromptPool(make_prompts(7)[::-1], seed=3)
    restored.load_state_dict(json.loads(json.dumps(pool.state_dict())))
    assert [texts(restored.next(n)) for n in after] == [texts(pool.next(n)) for n in after]


def test_state_of_other_prompts_or_another_seed_is_refused():
    state = PromptPool(make_prompts(5), 0).state_dict()
    with pytest.raises(UserError, match=r"data\.train: these are not the prompts"):
        PromptPool(make_prompts(6), 0).load_state_dict(state)
    with pytest.raises(UserError, match="seed"):
        PromptPool(make_prompts(5), 1).load_state_dict(state)


def test_empty_pools_and_repeated_prompts_are_refused():
    with pytest.raises(UserError, match="no prompts"):
        PromptPool([], 0)
    with pytest.raises(UserError, match="twice: 'q0'"):
        PromptPool([*make_prompts(3), make_prompts(1)[0]], 0)


def test_peek_tells_what_next_will_serve_and_moves_nothing():
    """Over the end of a pass and with prompts deferred."""
    pool, reference = PromptPool(make_prompts(7), seed=0), PromptPool(make_prompts(7), seed=0)
    for n in (5, 4, 7, 3, 6):
        before = pool.state_dict()
        ahead = [prompt.key for prompt in pool.peek(7)]
        assert pool.state_dict() == before
        served = [prompt.key for prompt in pool.next(n)]
        assert served == ahead[:n] == [prompt.key for prompt in reference.next(n)]


def test_what_is_put_back_comes_next_in_its_order_and_survives_a_checkpoint() -> None:
    pool = PromptPool(make_prompts(12), seed=0)
    first = pool.next(5)
    pool.put_back(first[1:3])
    restored = PromptPool(make_prompts(12), seed=0)
    restored.load_state_dict(pool.state_dict())
    for one in (pool, restored):
        following = one.next(9)
        assert following[:2] == first[1:3]
        assert len({prompt.key for prompt in following}) == 9
        assert not {prompt.key for prompt in following[2:]} & {prompt.key for prompt in first}
