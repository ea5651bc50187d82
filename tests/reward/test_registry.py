from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from depo import reward
from depo.reward import registry

SPECS = {
    "math": {},
    "exact": {},
    "format": {"pattern": ".*"},
    "overlong": {"buffer": 4},
    "reasoning_gym": {},
    "function": {"path": "math:sqrt", "correct_at": 1.0},
    "weighted": {"parts": [{"weight": 1.0, "reward": {"type": "exact"}}]},
}


class Fancy:
    """A third party's reward."""

    def __init__(self, bonus: float = 0.0) -> None:
        self.bonus = bonus

    def score(self, samples):
        return [reward.Score(1.0 + self.bonus, True) for _ in samples]


@pytest.fixture
def registered(monkeypatch) -> None:
    points = [
        EntryPoint("fancy", f"{__name__}:Fancy", registry.ENTRY_POINT_GROUP),
        EntryPoint("gone", "no_such_package_at_all:Thing", registry.ENTRY_POINT_GROUP),
        EntryPoint("no_factory", "math:pi", registry.ENTRY_POINT_GROUP),
        EntryPoint("no_reward", "fractions:Fraction", registry.ENTRY_POINT_GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)


@pytest.mark.parametrize("kind", SPECS)
def test_every_built_in_type_can_be_built_directly_and_as_a_plugin(kind: str) -> None:
    assert callable(reward.build({"type": kind, **SPECS[kind]}).score)
    assert callable(reward.build({"type": "plugin", "name": kind, "options": SPECS[kind]}).score)


def test_the_recipe_schema_and_the_registry_know_the_same_types() -> None:
    schema = pytest.importorskip("depo.recipe.schema")
    for block, options in (
        (schema.MathReward, {}),
        (schema.ExactReward, {}),
        (schema.FormatReward, {}),
        (schema.OverlongReward, {"buffer": 3}),
        (schema.ReasoningGymReward, {}),
        (schema.FunctionReward, {"path": "math:sqrt"}),
        (schema.WeightedReward, {"parts": [{"reward": {"type": "overlong", "buffer": 3}}]}),
        (schema.PluginReward, {"name": "exact"}),
    ):
        assert callable(reward.build(block(**options).model_dump()).score)


def test_ours_are_registered_as_entry_points_like_anybodys() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][registry.ENTRY_POINT_GROUP] == registry.BUILT_IN


def test_a_registered_plugin_gets_its_options(registered, sample) -> None:
    plugin = reward.build({"type": "plugin", "name": "fancy", "options": {"bonus": 0.5}})
    assert plugin.score([sample("x")])[0].value == 1.5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "maths"}, "reward type 'maths' is unknown; known types: math, exact"),
        ({}, "reward type None is unknown"),
        ({"type": "format"}, "missing a required argument: 'pattern'"),
        ({"type": "overlong", "buffer": 3, "limit": 4}, "unexpected keyword argument 'limit'"),
        ({"type": "plugin", "name": "nobody"}, "'nobody' is not registered .* known: .*fancy"),
        ({"type": "plugin", "name": "gone"}, "'no_such_package_at_all:Thing' does not load"),
        ({"type": "plugin", "name": "fancy", "options": {"malus": 1}}, "argument 'malus'"),
        ({"type": "plugin", "name": "no_factory"}, "neither a reward class nor a function"),
        ({"type": "plugin", "name": "no_reward"}, "Fraction has no method score"),
    ],
)
def test_a_bad_spec_is_one_clear_line(registered, spec: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        reward.build(spec)
    assert "\n" not in str(caught.value)


def test_the_package_stands_alone_and_imports_nothing_heavy() -> None:
    script = (
        "import sys; from depo import reward\n"
        f"for kind, options in {SPECS!r}.items(): reward.build({{'type': kind, **options}})\n"
        "print([name for name in ('depo.errors', 'ray', 'torch', 'numpy', 'sympy', 'reasoning_gym')\n"
        "       if name in sys.modules])\n"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"
