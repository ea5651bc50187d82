"""Prompts that waited too long: who, how many, and that the cap is honoured."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from synthetic_pool import Oracle, first_round, group, keys, pool_of, selector_of

from depo.recipe.schema import Selection
from depo.selection import SelectionSettings, Selector
from depo.selection.pool import PromptPool
from depo.selection.rules import BUILT_IN
from depo.types import Origin, Pick


def step_of(selector: Selector, pool: PromptPool, step: int) -> list[Pick]:
    """One round, all of it mixed."""
    open_step, picks = first_round(selector, pool, Oracle(pool), step)
    selector.observe(open_step, [group(pick, [True, False]) for pick in picks])
    return picks


def longest_waits(selector: Selector, pool: PromptPool, steps: int) -> list[int]:
    """The longest wait in the pool after each step."""
    last = dict.fromkeys((prompt.key for prompt in pool.prompts), 0)
    waits = []
    for step in range(1, steps + 1):
        last |= dict.fromkeys(keys(step_of(selector, pool, step)), step)
        waits.append(step - min(last.values()))
    return waits


@pytest.mark.parametrize("rule", sorted(BUILT_IN))
def test_no_prompt_waits_longer_than_the_cap_and_one_sweep_of_the_reserved_places(rule: str) -> None:
    """100 prompts, 2 reserved places of 10: should all fall due at once, the last of them waits
    100 / 2 = 50 steps more."""
    selector, pool = (
        selector_of(prompts=10, type=rule, min_window=0, audit=0, revisit_after=30, revisit_share=0.2),
        pool_of(100),
    )
    assert max(longest_waits(selector, pool, 120)) <= 30 + 50


def test_without_a_cap_greedy_selection_never_visits_most_of_the_pool() -> None:
    selector, pool = selector_of(prompts=10, type="greedy", min_window=0, audit=0), pool_of(100)
    assert longest_waits(selector, pool, 120)[-1] == 120


def test_reserved_places_go_to_those_who_waited_longest_and_only_after_the_cap() -> None:
    selector, pool = (
        selector_of(prompts=10, type="greedy", min_window=0, audit=0.1, revisit_after=5, revisit_share=0.3),
        pool_of(60),
    )
    last = dict.fromkeys((prompt.key for prompt in pool.prompts), 0)
    for step in range(1, 60):
        picks = step_of(selector, pool, step)
        revisits = [pick for pick in picks if pick.selector == "revisit"]
        assert len(revisits) == (0 if step <= 5 else 3)
        for pick in revisits:
            assert (pick.origin, pick.uniform) == (Origin.SELECTED, False)
            assert np.isnan(pick.propensity)
        waited = [step - last[pick.prompt.key] for pick in revisits]
        others = [step - then for key, then in last.items() if key not in keys(picks)]
        assert not waited or min(waited) >= max(others)
        assert not waited or min(waited) > 5
        last |= dict.fromkeys(keys(picks), step)


def test_equal_waits_are_broken_at_random_and_by_the_seed() -> None:
    drawn = set()
    for seed in range(20):
        selector = selector_of(
            prompts=4, seed=seed, type="greedy", min_window=0, audit=0, revisit_after=1, revisit_share=0.25
        )
        pool = pool_of(50)
        picks = first_round(selector, pool, Oracle(pool), 9)[1]
        drawn |= {pick.prompt.key for pick in picks if pick.selector == "revisit"}
    assert len(drawn) > 10


def test_revisits_do_not_count_towards_the_yield_that_sizes_refills() -> None:
    selector, pool = (
        selector_of(prompts=10, type="greedy", min_window=0, audit=0, revisit_after=1, revisit_share=0.5),
        pool_of(100),
    )
    open_step, picks = first_round(selector, pool, Oracle(pool), 5)
    done = [group(pick, [pick.selector == "greedy", False]) for pick in picks]
    assert selector.expected_yield("greedy", done) == 1.0
    refill = selector.pick(open_step, pool, Oracle(pool), done)
    assert len(refill) == 5
    assert {pick.selector for pick in refill} == {"greedy"}


def test_share_is_kept_in_the_long_run_where_it_is_a_fraction_of_a_prompt() -> None:
    selector, pool = (
        selector_of(prompts=5, type="greedy", min_window=0, audit=0, revisit_after=1, revisit_share=0.1),
        pool_of(100),
    )
    counts = [sum(p.selector == "revisit" for p in step_of(selector, pool, step)) for step in range(2, 402)]
    assert set(counts) == {0, 1}
    assert np.mean(counts) == pytest.approx(0.5, abs=3.3 * 0.5 / 20)


def test_auto_is_the_time_of_four_passes() -> None:
    assert SelectionSettings(32).longest_wait(1000) == 125
    assert SelectionSettings(32).longest_wait(1) == 1
    assert SelectionSettings(32, revisit_after=None).longest_wait(1000) is None


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "greedy", "audit": 0.6, "revisit_share": 0.5}, "must not add up to more than 1"),
        ({"type": "window", "low": 0.9, "high": 0.2}, "low 0.9 exceeds high 0.2"),
        ({"type": "uniform", "revisit_after": 5}, "Extra inputs"),
        ({"type": "gumbel", "temperature": 0}, "more than 0|at least|greater"),
        ({"type": "thompson", "revisit_after": "never"}, "revisit_after"),
    ],
)
def test_settings_that_do_not_fit_are_errors(block: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Selection).validate_python(block)
