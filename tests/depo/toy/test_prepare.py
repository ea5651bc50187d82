"""What precedes the assembly of a quickstart. Building, warm start and grading have tests of their own."""

from __future__ import annotations

from pathlib import Path

from depo.data import RunPrompts
from depo.recipe.loading import load_recipe
from depo.toy.prepare import prepare
from depo.types import Prompt

RECIPE = load_recipe(Path(__file__).parents[3] / "recipes" / "quickstart.yaml")


def test_what_an_earlier_start_stored_is_read_and_its_policy_left_alone(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "model.safetensors").touch()
    heldout = [Prompt("k1", "1+1=", (1, 2), "2")]
    stored = RunPrompts([Prompt("k0", "1+2=", (1, 3), "3")], heldout, {"solvable": frozenset({"k1"})})
    stored.store(tmp_path)
    assert prepare(RECIPE, tmp_path / "policy", tmp_path, print) == stored
    assert (tmp_path / "policy" / "model.safetensors").exists()
