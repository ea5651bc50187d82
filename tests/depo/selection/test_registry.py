"""Rules as a registry: ours, somebody else's, and what is said of those that do not exist."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from synthetic_pool import G, Oracle, first_round, keys, pool_of

from depo.estimators.moments import informative_probability
from depo.recipe.schema import Recipe
from depo.selection import InPoolOrder, SelectionSettings, Selector, build_rule, build_selector
from depo.selection.rules import BUILT_IN, GROUP, Thompson

MINE = '''
from dataclasses import dataclass


@dataclass(frozen=True)
class Hardest:
    """The lowest means above a floor."""

    floor: float
    name = "hardest"

    def __call__(self, considered, rng):
        mean_N = considered.estimates.mean
        return (mean_N >= self.floor) * (2 - mean_N)


def in_turn():
    return InTurn()


class InTurn:
    """The pool's order, one prompt left out after each that is picked."""

    name = "in_turn"

    def __call__(self, considered, rng):
        return [float(i % 2 == 0) * 100 - i for i in range(len(considered.estimates.mean))]

    def passed(self, scores_N, rows_n):
        return 2 * len(rows_n)
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution that registers two rules, as pip would install it."""
    (tmp_path / "other_rules.py").write_text(MINE)
    metadata = tmp_path / "other_rules-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other-rules\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        f"[{GROUP}]\nhardest = other_rules:Hardest\nturn = other_rules:in_turn\ngone = other_rules:Gone\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("other_rules", None)


def recipe_with(options: dict[str, object]) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "x",
            "steps": 1,
            "policy": {"type": "pretrained", "model": "m"},
            "data": {"train": {"type": "file", "path": "a.jsonl"}},
            "batch": {"prompts": 6, "group_size": G},
            "selection": {"type": "plugin", "min_window": 0, "audit": 0, "revisit_after": None, **options},
        }
    )


@pytest.mark.usefixtures("installed")
def test_somebody_elses_rule_chooses_by_a_recipe() -> None:
    recipe, pool = recipe_with({"name": "hardest", "options": {"floor": 0.25}, "candidates": 80}), pool_of(80)
    selector = build_selector(recipe.selection.spec, recipe.batch.prompts, recipe.seed)
    oracle = Oracle(pool)
    picks = first_round(selector, pool, oracle, 1)[1]
    above = sorted(rate for rate in oracle.rate.values() if rate >= 0.25)
    assert sorted(oracle.rate[key] for key in keys(picks)) == above[:6]
    assert {pick.selector for pick in picks} == {"hardest"}


@pytest.mark.usefixtures("installed")
def test_somebody_elses_rule_may_work_through_the_pool_in_its_order() -> None:
    selector, pool = Selector(SelectionSettings(4, audit=0, min_window=0), build_rule("turn"), 0), pool_of(60)
    order = [prompt.key for prompt in pool.peek(16)]
    assert isinstance(selector.rule, InPoolOrder)
    assert keys(first_round(selector, pool, Oracle(pool), 1)[1]) == order[0:8:2]
    assert keys(first_round(selector, pool, Oracle(pool), 2)[1]) == order[8:16:2]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nothing", {}, r"'nothing' in the group depo.rules; known: .*greedy, .*hardest"),
        ("gone", {}, "other_rules:Gone cannot be loaded"),
        (
            "hardest",
            {},
            "'hardest' of depo.rules does not take these options: missing a required argument: 'floor'",
        ),
        ("thompson", {"drawz": 3}, "'thompson' of depo.rules does not take these options: .*'drawz'"),
    ],
)
def test_rules_and_options_that_do_not_exist_are_errors(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_rule(name, options)


def test_a_rule_may_not_be_called_as_picks_that_no_rule_made() -> None:
    class Uniform(Thompson):
        name = "uniform"

    with pytest.raises(ValueError, match="no rule may be called 'uniform'"):
        Selector(SelectionSettings(4), Uniform(), 0)


def test_scores_of_another_shape_are_an_error_naming_the_rule() -> None:
    class Short(Thompson):
        name = "short"

        def __call__(self, considered, rng):
            return informative_probability(considered.estimates.mean, G)[1:]

    selector, pool = Selector(SelectionSettings(4, min_window=0, audit=0), Short(), 0), pool_of(40)
    with pytest.raises(ValueError, match=r"rule short: expected \(32,\) scores, found shape \(31,\)"):
        first_round(selector, pool, Oracle(pool), 1)


def test_each_of_ours_is_an_entry_point_too_and_goes_by_its_own_name() -> None:
    """A source directory has no metadata: the table serves it."""
    pyproject = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert pyproject["project"]["entry-points"][GROUP] == BUILT_IN
    for name in BUILT_IN:
        assert build_rule(name).name == name


def test_uniform_selection_takes_no_options_and_rules_refuse_settings_they_do_not_have() -> None:
    with pytest.raises(ValueError, match="uniform selection does not take these options: draws"):
        build_selector({"type": "uniform", "draws": 2}, 4, 0)
    with pytest.raises(ValueError, match=r"'greedy' of depo\.rules does not take these options"):
        build_selector({"type": "greedy", "prefill_probe": True}, 4, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 100, "min_window": 200}, "min_window 200 exceeds window 100"),
        ({"candidates": 3}, "candidates 3 must be at least the batch of 4"),
        ({"audit": 0.6, "revisit_share": 0.5}, "add up to more than 1"),
    ],
)
def test_settings_that_contradict_each_other_are_errors(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectionSettings(4, **settings)


def test_scores_may_be_any_sequence_of_numbers() -> None:
    class Listed(Thompson):
        name = "listed"

        def __call__(self, considered, rng):
            return list(super().__call__(considered, rng))

    pool = pool_of(40)
    settings = SelectionSettings(4, min_window=0, audit=0)
    picked = [
        keys(first_round(Selector(settings, r, 0), pool, Oracle(pool), 1)[1]) for r in (Listed(), Thompson())
    ]
    assert picked[0] == picked[1]
    assert np.size(picked) == 8
