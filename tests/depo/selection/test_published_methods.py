"""The published methods are recipes, and do what their papers say.

The settings are those of docs/selection.md.
"""

from __future__ import annotations

from typing import Any

import pytest
from synthetic_pool import G, first_round, group, keys, pass_rate, pool_of, selector_of

from depo import estimators
from depo.estimators.base import Context, Observation
from depo.estimators.mopps import MoppsEstimator
from depo.recipe.keys import expand
from depo.recipe.schema import Recipe
from depo.selection import build_selector
from depo.types import Origin

PUBLISHED = {"audit": 0, "min_window": 0, "revisit_after": None}
SETTINGS: dict[str, dict[str, Any]] = {
    "GRPO": {"estimator": "uniform", "selection": {"type": "uniform", "refill": False}},
    "DAPO": {"estimator": "uniform", "selection": {"type": "uniform", "refill": True}},
    "GRESO": {"estimator": "greso", "selection": {"type": "skip", "refill": True, **PUBLISHED}},
    "MoPPS": {
        "estimator": "mopps",
        "selection": {"type": "thompson", "draws": 1, "candidates": 8192, "refill": False, **PUBLISHED},
    },
    "DPS": {
        "estimator": {"type": "dps", "prior_count": 1, "discount": 0.7, "confusion": 0},
        "selection": {"type": "greedy", "candidates": 8192, "refill": False, **PUBLISHED},
    },
    "DEPO": {
        "estimator": {"type": "depo", "model": "sentence-transformers/all-MiniLM-L6-v2"},
        "selection": {"type": "window", "refill": False, "warmup_steps": 10, **PUBLISHED},
    },
}
MINIMAL = {
    "name": "x",
    "steps": 1,
    "policy": {"type": "pretrained", "model": "m"},
    "data": {"train": {"type": "file", "path": "a.jsonl"}},
    "batch": {"prompts": 8, "group_size": G},
}


def recipe_of(method: str) -> Recipe:
    return Recipe.model_validate(expand(MINIMAL | SETTINGS[method]))


@pytest.mark.parametrize("method", SETTINGS)
def test_only_those_that_sample_dynamically_refill(method: str) -> None:
    """Every group of a first round is all wrong: DAPO and GRESO pick on, the others are done."""
    recipe, pool = recipe_of(method), pool_of(60)
    selector = build_selector(recipe.selection.spec, recipe.batch.prompts, recipe.seed)
    open_step, picks = first_round(selector, pool, MoppsEstimator(), 1)
    refill = selector.pick(open_step, pool, MoppsEstimator(), [group(pick, [False] * G) for pick in picks])
    assert len(picks) == 8
    assert bool(refill) == (method in ("DAPO", "GRESO"))
    assert {pick.origin for pick in refill} <= {Origin.REFILL}


@pytest.mark.parametrize("method", ["GRESO", "MoPPS", "DPS"])
def test_settings_leave_every_pick_to_the_rule_from_the_first_step(method: str) -> None:
    recipe, pool = recipe_of(method), pool_of(60)
    selector = build_selector(recipe.selection.spec, recipe.batch.prompts, recipe.seed)
    estimator = estimators.build(recipe.estimator.model_dump())
    for step in range(1, 80):
        context = Context(G, step)
        open_step, picks = first_round(selector, pool, estimator, step)
        assert {(pick.selector, pick.origin) for pick in picks} == {(recipe.selection.type, Origin.SELECTED)}
        groups = [group(p, [pass_rate(p.prompt) > i / G + 0.01 for i in range(G)]) for p in picks]
        estimator.observe(
            [Observation(g.pick.prompt.key, "", g.successes, g.trials, step) for g in groups], context
        )
        selector.observe(open_step, groups)


def test_greso_visits_hopeless_prompts_ever_more_seldom_and_learnable_ones_every_pass() -> None:
    recipe, pool = recipe_of("GRESO"), pool_of(60)
    selector = build_selector(recipe.selection.spec, recipe.batch.prompts, recipe.seed)
    estimator = estimators.build(recipe.estimator.model_dump())
    visits = dict.fromkeys((prompt.key for prompt in pool.prompts), 0)
    for step in range(1, 101):
        context = Context(G, step)
        open_step, picks = first_round(selector, pool, estimator, step)
        groups = [group(p, [0.1 < pass_rate(p.prompt) < 0.9 and i < 4 for i in range(G)]) for p in picks]
        estimator.observe(
            [Observation(g.pick.prompt.key, "", g.successes, g.trials, step) for g in groups], context
        )
        selector.observe(open_step, groups)
        for key in keys(picks):
            visits[key] += 1
    learnable = [visits[p.key] for p in pool.prompts if 0.1 < pass_rate(p) < 0.9]
    hopeless = [visits[p.key] for p in pool.prompts if not 0.1 < pass_rate(p) < 0.9]
    assert max(learnable) - min(learnable) <= 1  # once in every pass
    assert min(learnable) > 4 * max(hopeless)


@pytest.mark.parametrize("kind", ["thompson", "window", "threshold", "skip", "gumbel", "greedy"])
def test_rules_that_go_by_beliefs_need_an_estimator_that_has_some(kind: str) -> None:
    raw = MINIMAL | {"estimator": {"type": "uniform"}, "selection": {"type": kind}}
    with pytest.raises(ValueError, match=f"selection.type {kind} needs an estimator"):
        Recipe.model_validate(raw)
    Recipe.model_validate(raw | {"estimator": {"type": "dps"}})


def test_base_probability_outside_its_own_bounds_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"p_easy must lie between p_min 0.05 and p_max 0.95, found 0.99"):
        Recipe.model_validate(
            MINIMAL | {"estimator": {"type": "greso", "p_easy": 0.99}, "selection": {"type": "skip"}}
        )


@pytest.mark.parametrize("kind", ["uniform", "thompson"])
def test_mastered_prompts_are_evicted_until_the_others_run_out(kind: str) -> None:
    """A pool of 24 and rounds of 4, all of whose groups are all right. After four steps 16 are evicted. A
    step of three refilled rounds then takes the 8 others first, and returns to the evicted for the rest."""
    options = {"type": kind, "evict_mastered": True, "refill": True, "max_rounds": 3, "min_window": 0}
    options |= {"audit": 0.0} if kind == "thompson" else {}
    selector, pool, seen = selector_of(prompts=4, **options), pool_of(24), set()
    for step in range(1, 5):
        open_step, picks = first_round(selector, pool, MoppsEstimator(), step)
        assert not seen & set(keys(picks)), "picked again"
        seen |= set(keys(picks))
        selector.observe(open_step, [group(pick, [True, True]) for pick in picks])
        selector.assign(open_step, [])
    resumed = selector_of(prompts=4, **options)
    resumed.load_state_dict(selector.state_dict(), pool)
    open_step, done = resumed.begin(Context(2, 5)), []
    while picks := resumed.pick(open_step, pool, MoppsEstimator(), done):
        assert len(done) == 8 or not seen & set(keys(picks)), "the others come first"
        done += [group(pick, [True, True]) for pick in picks]
    assert len(done) == 12
    assert len({one.pick.prompt.key for one in done}) == 12
