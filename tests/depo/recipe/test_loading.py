"""Recipes: what loads, what is overridden, what is written back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_recipe import MINIMAL, problems, written

from depo.errors import UserError
from depo.recipe.loading import dump_recipe, load_recipe, write_resolved
from depo.recipe.schema import DapoLoss, FileSource, GspoLoss, HubSource, TisCorrection
from depo.recipe.suites import read_suite

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_survives_dumping_and_loading(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    assert load_recipe(written(tmp_path, dump_recipe(recipe))) == recipe


def test_there_are_recipes_to_test() -> None:
    assert {"quickstart", "math", "math_mini", "math_cpu"} <= {path.stem for path in RECIPES}


def test_exponents_without_a_dot_are_numbers_in_files_and_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + "learner: {lr: 1e-5, weight_decay: 1E+2}\n")
    recipe = load_recipe(path, ["learner.max_grad_norm=2e-1"])
    assert (recipe.learner.lr, recipe.learner.weight_decay, recipe.learner.max_grad_norm) == (
        1e-5,
        100.0,
        0.2,
    )


def test_text_that_looks_like_a_number_survives_dumping(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path), ["name='1e5'", "policy.revision='1e-5'"])
    assert recipe.name == "1e5"
    assert load_recipe(written(tmp_path, dump_recipe(recipe))) == recipe


def test_an_override_of_data_takes_the_shorthand_of_a_file_or_a_hub_id(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL.replace("organisation/problems", "{type: hub, id: a/b, limit: 5}"))
    assert load_recipe(path, ["data.train=x.jsonl"]).data.train == FileSource(path=Path("x.jsonl"))
    assert load_recipe(path, ["data.train=c/d"]).data.train == HubSource(id="c/d")


def test_a_key_inside_a_shorthand_can_be_overridden(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path), ["data.train.limit=7"])
    assert recipe.data.train == HubSource(id="organisation/problems", limit=7)


@pytest.mark.parametrize(
    "override", ["learner.loss=gspo", "learner.loss.type=gspo", "learner.loss={type: gspo}"]
)
def test_another_type_drops_the_keys_the_file_gave_the_old_one(tmp_path: Path, override: str) -> None:
    path = written(tmp_path, MINIMAL + "learner: {lr: 0.5, loss: {type: dapo, clip_low: 0.3}}\n")
    recipe = load_recipe(path, [override])
    assert recipe.learner.loss == GspoLoss()
    assert recipe.learner.lr == 0.5


@pytest.mark.parametrize("override", ["learner.loss=dapo", "learner.loss.type=dapo"])
def test_the_same_type_keeps_the_keys_of_the_file(tmp_path: Path, override: str) -> None:
    path = written(tmp_path, MINIMAL + "learner: {loss: {type: dapo, clip_low: 0.3}}\n")
    assert load_recipe(path, [override]).learner.loss == DapoLoss(clip_low=0.3)


def test_a_type_and_a_key_of_that_type_can_be_overridden_in_any_order(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + "learner: {loss: {type: dapo, clip_high: 0.3}}\n")
    for overrides in (
        ["learner.loss.clip_low=1e-3", "learner.loss=gspo"],
        ["learner.loss=gspo", "learner.loss.clip_low=1e-3"],
    ):
        assert load_recipe(path, overrides).learner.loss == GspoLoss(clip_low=1e-3)


def test_a_union_block_without_a_type_has_the_type_of_the_default(tmp_path: Path) -> None:
    recipe = load_recipe(
        written(tmp_path, MINIMAL + "learner: {correction: {cap: 3}}\n"), ["learner.loss.clip_low=0"]
    )
    assert recipe.learner.correction == TisCorrection(cap=3)
    assert recipe.learner.loss == DapoLoss(clip_low=0)


def test_blocks_that_are_off_can_be_switched_on_and_off(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert load_recipe(path).policy.lora is None
    assert load_recipe(path, ["policy.lora.rank=4"]).policy.lora.rank == 4
    assert (
        load_recipe(path, ["policy.lora.rank=4", "policy.lora=null"]).policy.lora.rank == 4
    )  # broader first
    assert (
        load_recipe(
            written(tmp_path, MINIMAL.replace("model}", "model, lora: {}}")), ["policy.lora=null"]
        ).policy.lora
        is None
    )


def test_entries_of_lists_are_overridden_by_number(tmp_path: Path) -> None:
    path = written(
        tmp_path, MINIMAL + "evaluation: {sets: [{name: a, source: a/b}, {name: b, source: c/d}]}\n"
    )
    recipe = load_recipe(path, ["evaluation.sets.1.source=e/f", "evaluation.sets.0.reward=exact"])
    assert [s.source.id for s in recipe.evaluation.sets] == ["a/b", "e/f"]
    assert recipe.evaluation.sets[0].reward.type == "exact"
    assert load_recipe(path, ["evaluation.sets=[]"]).evaluation.sets == []


def test_the_resolved_recipe_loads_and_says_what_made_it(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path), ["seed=7"])
    path = tmp_path / "recipe.yaml"
    write_resolved(recipe, path)
    assert load_recipe(path) == recipe
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith("# commit: ") for line in header)
    assert any(line.startswith("#   pydantic: 2.") for line in header)
    assert yaml.safe_load(path.read_text())["schema_version"] == 1


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n"])
def test_a_file_without_keys_is_no_recipe(tmp_path: Path, text: str) -> None:
    (line,) = problems(tmp_path, text)
    assert line.startswith("FILE: must hold keys and values, found ")


def test_a_missing_file_suggests_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"smal\.yaml: no such recipe file; did you mean .*small\.yaml\?"):
        load_recipe(tmp_path / "smal.yaml")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quickstart.yaml").write_text(MINIMAL)
    with pytest.raises(UserError, match=r"did you mean recipes/quickstart\.yaml\?"):
        load_recipe("quickstrt.yaml")


def test_shipped_recipes_are_found_by_name_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe("quickstart") == load_recipe(ROOT / "recipes" / "quickstart.yaml")
    with pytest.raises(UserError) as caught:
        load_recipe("quickstrt")
    names = ", ".join(path.stem for path in RECIPES)
    expected = f"no such recipe: quickstrt; did you mean quickstart? known: {names}; or name a YAML file"
    assert str(caught.value) == expected
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quickstart.yaml").write_text(MINIMAL)
    assert load_recipe("quickstart").name != "quickstart", "one's own comes first"


def test_what_is_installed_holds_the_recipes(tmp_path: Path) -> None:
    """What setuptools copies into a wheel."""
    setup = [sys.executable, "-c", "import setuptools; setuptools.setup()"]
    commands = ["egg_info", "--egg-base", tmp_path, "build_py", "--build-lib", tmp_path]
    subprocess.run([*setup, *commands], cwd=ROOT, check=True, capture_output=True)
    built = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.yaml")}
    for path in (ROOT / "recipes").rglob("*.yaml"):
        assert f"depo/recipe/shipped/{path.relative_to(ROOT / 'recipes')}" in built


def test_a_run_directory_given_as_recipe_suggests_the_recipe_in_it(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(MINIMAL)
    with pytest.raises(UserError, match=r"is a directory.*did you mean .*recipe\.yaml\?"):
        load_recipe(tmp_path)


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, "FILE:5: not valid YAML: more than 20,000 values, with what aliases stand for"),
        ("steps: " + "[" * 5000, "FILE:1: not valid YAML: nested deeper than 40 levels"),
        ("steps: &a [*a]", "FILE:1: not valid YAML: *a stands inside of what it names"),
        ("# " + "x" * 2**20, "FILE: longer than 1,048,576 characters, which no recipe is"),
    ],
)
def test_a_file_that_would_fill_the_memory_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = written(tmp_path, text)
    for load in (load_recipe, read_suite):
        with pytest.raises(UserError) as caught:
            load(path)
        assert str(caught.value).replace(str(path), "FILE") == problem


@pytest.mark.parametrize(
    "override", ["x=" + "[" * 5000, "a." * 5000 + "b=1", "evaluation.suite_overrides=&a [*a]"]
)
def test_so_is_an_override(tmp_path: Path, override: str) -> None:
    with pytest.raises(
        UserError, match=r"^command line: .*(deeper than 40 levels|stands inside of what it names)$"
    ):
        load_recipe(written(tmp_path), [override])


def test_a_few_aliases_are_no_bomb(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, MINIMAL + "seed: &s 7\nmax_rollouts: *s\n"))
    assert (recipe.seed, recipe.max_rollouts) == (7, 7)


def test_a_recipe_without_a_name_is_named_as_its_file(tmp_path: Path) -> None:
    text = MINIMAL.replace("name: small\n", "")
    (tmp_path / "sums-7.yaml").write_text(text)
    assert load_recipe(tmp_path / "sums-7.yaml").name == "sums-7"
    assert load_recipe(tmp_path / "sums-7.yaml", ["name=other"]).name == "other"
    (tmp_path / "my sums.yaml").write_text(text)
    with pytest.raises(UserError, match="name: "):
        load_recipe(tmp_path / "my sums.yaml")
