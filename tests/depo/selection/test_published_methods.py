"""The settings that docs/selection.md gives for the published methods are recipes, and do what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from synthetic_pool import G, group, keys, pass_rate, pool_of

import estimators
from depo.recipe.schema import Recipe
from depo.selection import Selector
from depo.types import Origin
from estimators.base import Context, Observation

DOCS = (Path(__file__).parents[3] / "docs/selection.md").read_text()
SECTION = DOCS[DOCS.index("## Published methods") : DOCS.index("## The ledger")]
SETTINGS: dict[str, dict[str, Any]] = yaml.safe_load(re.search(r"```yaml\n(.*?)```", SECTION, re.S)[1])
ROWS = re.findall(r"^\| ([A-Za-z]+)[^|]*\| `(\w+)` \| `(\w+)` \| `(\w+)` \|$", SECTION, re.M)
MINIMAL = {
    "name": "x",
    "steps": 1,
    "policy": {"type": "pretrained", "model": "m"},
    "data": {"train": {"type": "file", "path": "a.jsonl"}},
    "batch": {"prompts": 8, "group_size": G},
}


def recipe_of(method: str) -> Recipe:
    return Recipe.model_validate(MINIMAL | SETTINGS[method])


def test_all_methods_of_the_roadmap_are_there() -> None:
    assert [row[0] for row in ROWS] == list(SETTINGS) == ["GRPO", "DAPO", "GRESO", "MoPPS", "DPS", "DEPO"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_table_and_settings_agree_and_are_a_valid_recipe(row: tuple[str, str, str, str]) -> None:
    method, estimator, selection, refill = row
    settings = SETTINGS[method]
    assert (settings["estimator"]["type"], settings["selection"]["type"]) == (estimator, selection)
    assert settings["selection"]["refill"] == (refill == "true")
    recipe = recipe_of(method)
    assert (recipe.estimator.type, recipe.selection.type) == (estimator, selection)


@pytest.mark.parametrize("method", ["GRESO", "MoPPS", "DPS"])
def test_settings_leave_every_pick_to_the_rule_from_the_first_step(method: str) -> None:
    recipe, pool = recipe_of(method), pool_of(60)
    selector = Selector(recipe.selection, recipe.batch, recipe.seed)
    estimator = estimators.build(recipe.estimator.model_dump())
    for step in range(1, 80):
        context = Context(G, step)
        picks = selector.pick(pool, estimator, context, [])
        assert {(pick.selector, pick.origin) for pick in picks} == {(recipe.selection.type, Origin.SELECTED)}
        groups = [group(p, [pass_rate(p.prompt) > i / G + 0.01 for i in range(G)]) for p in picks]
        estimator.observe(
            [Observation(g.pick.prompt.key, "", g.successes, g.trials, step) for g in groups], context
        )
        selector.observe(groups)


def test_greso_visits_hopeless_prompts_ever_more_seldom_and_learnable_ones_every_pass() -> None:
    recipe, pool = recipe_of("GRESO"), pool_of(60)
    selector = Selector(recipe.selection, recipe.batch, recipe.seed)
    estimator = estimators.build(recipe.estimator.model_dump())
    visits = dict.fromkeys((prompt.key for prompt in pool.prompts), 0)
    for step in range(1, 101):
        context = Context(G, step)
        picks = selector.pick(pool, estimator, context, [])
        groups = [group(p, [0.1 < pass_rate(p.prompt) < 0.9 and i < 4 for i in range(G)]) for p in picks]
        estimator.observe(
            [Observation(g.pick.prompt.key, "", g.successes, g.trials, step) for g in groups], context
        )
        selector.observe(groups)
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
