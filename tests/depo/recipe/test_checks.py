"""What a recipe names must be there: files, models, rewards, plugins."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from small_recipe import MINIMAL, weighted, written

from depo import estimators
from depo.errors import UserError
from depo.recipe.checks import check_inputs, directory_problem
from depo.recipe.loading import load_recipe, read_recipe
from depo.recipe.schema import PluginEstimator, Recipe


def model_directory(path: Path, *, without: str = "", positions: int = 2048) -> Path:
    """The files of a model, empty but for the configuration."""
    path.mkdir()
    config = {"model_type": "llama", "max_position_embeddings": positions}
    for name, text in {
        "config.json": json.dumps(config),
        "tokenizer.json": "{}",
        "model.safetensors": "\2\0\0\0\0\0\0\0{}",
    }.items():
        if name != without:
            (path / name).write_text(text)
    return path


def input_problem(directory: Path, *overrides: str) -> str:
    recipe, sources = read_recipe(written(directory), overrides)
    with pytest.raises(UserError) as caught:
        check_inputs(recipe, sources)
    return str(caught.value)


def test_a_complete_model_directory_and_data_file_pass(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}\n")
    model = model_directory(tmp_path / "model", positions=2048)
    overrides = [f"policy.model={model}", f"data.train={tmp_path / 'train.jsonl'}"]
    check_inputs(
        load_recipe(written(tmp_path), overrides)
    )  # 1024 prompt and 1024 completion tokens: just fits


def test_a_missing_data_file_is_named_with_its_key_and_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}\n")
    line = input_problem(tmp_path, f"data.train={tmp_path}/trian.jsonl")
    missing, meant = tmp_path / "trian.jsonl", tmp_path / "train.jsonl"
    assert line == f"command line: data.train.path: no such file: {missing}; did you mean {meant}?"


def test_a_missing_evaluation_file_is_named_with_its_key(tmp_path: Path) -> None:
    line = input_problem(tmp_path, f"evaluation.sets=[{{name: a, source: {tmp_path}/no.parquet}}]")
    assert line == f"command line: evaluation.sets.0.source.path: no such file: {tmp_path}/no.parquet"


def test_an_empty_data_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").touch()
    assert input_problem(tmp_path, f"data.train={tmp_path}/train.jsonl").endswith("train.jsonl is empty")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["reward={type: format, pattern: '('}"], "command line: reward: reward format: pattern '(' is no "),
        (
            ["reward={type: function, path: 'no_such_module:f'}"],
            "command line: reward: reward function: path 'no_such_module:f': no module ",
        ),
        (
            ["reward={type: plugin, name: none}"],
            "command line: reward: reward plugin 'none' is not registered ",
        ),
        (
            [f"reward={weighted('{reward: {type: exact}}', '{reward: {type: plugin, name: none}}')}"],
            "command line: reward.parts.1.reward: reward plugin 'none' is not registered ",
        ),
        (
            ["evaluation.sets=[{name: a, source: a/b, reward: {type: plugin, name: none}}]"],
            "command line: evaluation.sets.0.reward: reward plugin 'none' is not registered ",
        ),
    ],
)
def test_a_reward_that_cannot_be_built_is_named_with_its_key(
    tmp_path: Path, overrides: list[str], line: str
) -> None:
    assert input_problem(tmp_path, *overrides).startswith(line)


@pytest.mark.parametrize(
    ("without", "complaint"),
    [
        ("config.json", "has no config.json"),
        ("tokenizer.json", "has no tokenizer"),
        ("model.safetensors", "has no weights"),
    ],
)
def test_an_incomplete_model_directory_says_what_it_lacks(
    tmp_path: Path, without: str, complaint: str
) -> None:
    model = model_directory(tmp_path / "model", without=without)
    line = input_problem(tmp_path, f"policy.model={model}")
    assert line.startswith(f"command line: policy.model: {model} {complaint}")


@pytest.mark.parametrize("kept", [0, 7, 60, -1])
def test_a_file_of_weights_that_is_cut_is_named(tmp_path: Path, kept: int) -> None:
    model = model_directory(tmp_path / "model")
    whole = save({"weight": np.zeros((3, 5), np.float32)})
    weights = model / "model.safetensors"
    weights.write_bytes(whole)
    assert directory_problem(model) is None
    weights.write_bytes(whole[:kept])
    line = input_problem(tmp_path, f"policy.model={model}")
    assert line.startswith(f"command line: policy.model: {weights} is ")
    assert line.endswith("fetch it again")


@pytest.mark.parametrize("model", ["./models/none", "~/no/such/model", "/no/such/model"])
def test_a_path_that_does_not_exist_is_not_taken_for_a_hub_id(tmp_path: Path, model: str) -> None:
    assert "policy.model: no such directory: " in input_problem(tmp_path, f"policy.model={model}")


def test_what_is_neither_directory_nor_hub_id_is_an_error(tmp_path: Path) -> None:
    line = input_problem(tmp_path, "policy.model=a/b/c")
    assert (
        line == "command line: policy.model: 'a/b/c' is neither a directory nor a hub id (organisation/name)"
    )


def test_sequences_longer_than_the_models_positions_are_an_error(tmp_path: Path) -> None:
    model = model_directory(tmp_path / "model", positions=2047)
    line = input_problem(tmp_path, f"policy.model={model}")
    assert (
        "data.max_prompt_tokens: with rollout.max_new_tokens it makes 2048 tokens, more than the 2047" in line
    )


def test_the_positions_of_a_cached_hub_model_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--organisation--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots").mkdir()
    model_directory(repository / "snapshots" / "abc", positions=100)
    assert "more than the 100 positions" in input_problem(tmp_path)


def test_a_hub_model_that_is_not_cached_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    recipe = load_recipe(written(tmp_path))
    check_inputs(recipe)
    assert isinstance(recipe, Recipe)


# ---------------------------------------------------------------- plugins


@pytest.mark.parametrize(
    ("override", "key", "known"),
    [
        ("estimator={type: plugin, name: mine}", "estimator.name", "group depo.estimators; known: .*mopps"),
        ("selection={type: plugin, name: mine}", "selection.name", "group depo.rules; known: .*thompson"),
        ("data.train={type: plugin, name: mine}", "data.train.name", "group depo.sources; known: .*file"),
        (
            "evaluation.sets=[{name: a, source: {type: plugin, name: mine}}]",
            "evaluation.sets.0.source.name",
            "group depo.sources; known: .*file",
        ),
        (
            "tracking.trackers=[{name: mine}]",
            "tracking.trackers.0.name",
            "group depo.trackers; known: .*mlflow",
        ),
        ("learner.loss={type: plugin, name: mine}", "learner.loss.name", "group depo.losses; known: .*grpo"),
        (
            "learner.correction={type: plugin, name: mine}",
            "learner.correction.name",
            "group depo.corrections; known: .*tis",
        ),
        (
            "learner.baseline={type: plugin, name: mine}",
            "learner.baseline.name",
            "group depo.advantages; known: .*belief",
        ),
    ],
)
def test_a_plugin_that_nobody_registered_is_named_with_its_key_and_the_known_ones(
    tmp_path: Path, override: str, key: str, known: str
) -> None:
    line = input_problem(tmp_path, override)
    assert re.fullmatch(f"command line: {re.escape(key)}: no entry point 'mine' in the {known}.*", line)


MINE = "{type: mine, options: {weight: 3}}"


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (f"estimator: {MINE}\n", []),
        ("", [f"estimator={MINE}"]),
        ("", ["estimator.options.weight=3", "estimator=mine"]),
        ("estimator: {type: plugin, name: mine, options: {weight: 3}}\n", []),
    ],
)
def test_a_registered_estimator_is_found_by_its_name_and_gets_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, overrides: list[str]
) -> None:
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[depo.estimators]\nmine = their_estimator:mine\n")
    (tmp_path / "their_estimator.py").write_text(
        "from depo.estimators.mopps import MoppsEstimator\n"
        "def mine(weight):\n    return MoppsEstimator(weight, weight)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe, sources = read_recipe(written(tmp_path, MINIMAL + text), overrides)
    check_inputs(recipe, sources)
    assert recipe.estimator == PluginEstimator(name="mine", options={"weight": 3})
    assert estimators.build(recipe.estimator.model_dump()).prior_successes == 3.0
