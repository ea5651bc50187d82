"""``depo recipes``: what it lists, and the schema that editors check recipes by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from depo.cli import main
from depo.recipe.command import schema
from depo.recipe.loading import SHIPPED

RECIPES = sorted(SHIPPED.glob("*.yaml"))


def test_each_shipped_recipe_is_listed_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    listed = [line.split()[0] for line in out.splitlines() if not line.startswith(" ")]
    assert listed == [file.stem for file in RECIPES]
    assert "quickstart   A whole run in minutes, without a GPU" in out
    assert "# depo" not in out
    assert "depo train" not in out


def errors(recipe: Any) -> list[str]:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(schema())
    return [".".join(map(str, error.path)) for error in validator.iter_errors(recipe)]


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_shipped_recipes_follow_the_schema(file: Path) -> None:
    assert errors(yaml.safe_load(file.read_text())) == []


def test_the_schema_finds_mistakes_and_allows_shorthands() -> None:
    recipe = {"steps": 3, "policy": {"model": "a/b"}, "data": {"train": "problems.csv"}}
    short = {"learner": {"loss": "gspo"}, "tracking": ["wandb"], "selection": "uniform"}
    assert errors(recipe | short) == []
    assert errors(recipe | {"steps": "three"}) == ["steps"]
    assert errors(recipe | {"batch": {"size": 3}}) == ["batch"]
    assert errors(recipe | {"learner": {"loss": {"type": "gspo", "clip_lo": 0.1}}}) == ["learner.loss"]
