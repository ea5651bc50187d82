"""Recipes: what loads, what is overridden, what every kind of mistake is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from depo.errors import UserError
from depo.recipe.checks import check_inputs
from depo.recipe.loading import dump_recipe, load_recipe, read_recipe, write_resolved
from depo.recipe.schema import DapoLoss, FileSource, GspoLoss, HubSource, Recipe, TisCorrection
from depo.selection import build_selector

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))

MINIMAL = """\
name: small
steps: 3
policy: {type: pretrained, model: organisation/model}
data: {train: organisation/problems}
"""


def written(directory: Path, text: str = MINIMAL) -> Path:
    path = directory / "small.yaml"
    path.write_text(text)
    return path


def problems(directory: Path, text: str, *overrides: str) -> list[str]:
    """Lines of the error for a recipe, its file's path shortened to FILE."""
    path = written(directory, text)
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    return [line.replace(str(path), "FILE") for line in str(caught.value).splitlines()]


# ---------------------------------------------------------------- loading and overriding


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


# ---------------------------------------------------------------- one line a problem

LINES = [
    ("learner: {los: dapo}", [], "FILE: learner.los: unknown key; did you mean learner.loss?"),
    ("group_size: 4", [], "FILE: group_size: unknown key; did you mean batch.group_size?"),
    ("batch: {group_size: 1}", [], "FILE: batch.group_size: must be at least 2, found 1"),
    (
        "estimator: {type: bta}",
        [],
        'FILE: estimator.type: unknown type "bta"; one of uniform, depo, mopps, greso, dps, hybrid, '
        "oracle, plugin",
    ),
    ("", ["steps=many"], "command line: steps: must be a whole number, found 'many'"),
    ("", ["steps=0"], "command line: steps: must be greater than 0, found 0"),
    ("", ["bacth.prompts=8"], "command line: bacth: unknown key; did you mean batch?"),
    (
        "batch: {prompts: 8}",
        ["batch.grup_size=8"],
        "command line: batch.grup_size: unknown key; did you mean batch.group_size?",
    ),
    (
        "batch: {grup_size: 8}",
        ["batch.prompts=8"],
        "FILE: batch.grup_size: unknown key; did you mean batch.group_size?",
    ),
    (
        "",
        ["rollout.engine=vlm"],
        "command line: rollout.engine: must be transformers or vllm, found 'vlm'; did you mean vllm?",
    ),
    (
        "learner: {loss: {type: gspo, clip_hgh: 1}}",
        [],
        "FILE: learner.loss.clip_hgh: unknown key for type gspo; did you mean learner.loss.clip_high?",
    ),
    (
        "estimator: {discount: 0.3}\nselection: uniform",
        ["estimator={type: uniform, discount: 0.3}"],
        "command line: estimator.discount: unknown key for type uniform; it belongs to type mopps and dps",
    ),
    (
        "",
        ["estimator=uniform"],
        "FILE (with estimator=uniform from the command line): selection.type thompson needs an estimator; "
        "estimator.type is uniform",
    ),
    (
        "batch: {prompts: 8}",
        ["learner.minibatches=3", "steps=1"],
        "FILE (with learner.minibatches=3 from the command line): batch.prompts 8 must be divisible by "
        "learner.minibatches 3",
    ),
    (
        "selection: {window: 100, min_window: 200}",
        [],
        "FILE: selection: min_window 200 exceeds window 100",
    ),
    (
        "selection: {candidates: 63}",
        [],
        "FILE: selection.candidates 63 must be at least batch.prompts 64: a round is chosen among them",
    ),
    (
        "estimator: mopps\nselection: {prefill_probe: true}",
        [],
        "FILE: selection.prefill_probe true needs estimator.type hybrid, which makes use of what the policy "
        "shows; estimator.type is mopps: set selection.prefill_probe to auto",
    ),
    (
        "estimator: greso",
        ["selection.answer_rescoring=8"],
        "FILE (with selection.answer_rescoring=8 from the command line): selection.answer_rescoring 8 needs "
        "estimator.type hybrid, which makes use of what the policy shows; estimator.type is greso: "
        "set selection.answer_rescoring to 0",
    ),
    ("estimator: beta", [], "FILE: estimator.type: beta is called mopps now"),
    ("estimator: {type: streak, p_min: 0.1}", [], "FILE: estimator.type: streak is called greso now"),
    ("", ["estimator=hmm"], "command line: estimator.type: hmm is called dps now"),
    ("", ["estimator.type=encoder"], "command line: estimator.type: encoder is called depo now"),
    (
        "estimator: {features: policy}",
        [],
        "FILE: estimator.features: is called selection.prefill_probe, true or false now",
    ),
    ("", ["estimator.recall=8"], "command line: estimator.recall: is called selection.answer_rescoring now"),
    ("selection: {max_waves: 3}", [], "FILE: selection.max_waves: is called selection.max_rounds now"),
    (
        "selection: {type: threshold, p_mixed: 0.4}",
        [],
        "FILE: selection.p_mixed: is called selection.p_informative now",
    ),
    (
        "evaluation: {n: 4}",
        [],
        "FILE: evaluation: n 4 at temperature 0 would draw the same completion 4 times; set temperature "
        "above 0, or n=1",
    ),
    ("learner: {betas: [0.9, 1]}", [], "FILE: learner.betas.1: must be less than 1, found 1"),
    ("", ["policy.lora.dropout=1.0"], "command line: policy.lora.dropout: must be less than 1, found 1.0"),
    (
        "",
        ["policy={type: tiny_moe, warm_start: {beta2: 1.0}}"],
        "command line: policy.warm_start.beta2: must be less than 1, found 1.0",
    ),
    (
        "evaluation: {sets: [{name: a, source: a/b}, {name: a, source: c/d}]}",
        [],
        "FILE: evaluation.sets: 2 sets are called 'a'; give each a name of its own",
    ),
    ("evaluation: {sets: [{source: a/b}]}", [], "FILE: evaluation.sets.0.name: required, but not given"),
    (
        "evaluation: {sets: []}",
        ["evaluation.sets.0.name=x"],
        "command line: evaluation.sets.0.name: evaluation.sets is a list of 0; its entries are "
        "numbered from 0, found '0'",
    ),
    ("", ["steps.more=1"], "command line: steps.more: steps is a plain value, it has no keys"),
    ("", ["steps"], "command line: 'steps' is not an override; write key=value, for example steps=5"),
    ("", ["batch=[1"], "command line: batch:1: not valid YAML: expected ',' or ']', but got '<stream end>'"),
    ("seed: 1\nseed: 2", [], "FILE:6: not valid YAML: key 'seed' is given twice (first in line 5)"),
    ("seed: [", [], "FILE:6: not valid YAML: expected the node content, but found '<stream end>'"),
]


@pytest.mark.parametrize(("text", "overrides", "line"), LINES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_told_in_one_line(tmp_path: Path, text: str, overrides: list[str], line: str) -> None:
    assert problems(tmp_path, f"{MINIMAL}{text}\n", *overrides) == [line]


@pytest.mark.parametrize("name", ["all", "solvable", "math/avg"])
def test_a_set_is_not_called_as_another_measure(tmp_path: Path, name: str) -> None:
    (line,) = problems(tmp_path, f"{MINIMAL}evaluation: {{sets: [{{name: {name}, source: a/b}}]}}\n")
    assert line.startswith(f"FILE: evaluation.sets.0.name: {name!r} is no name for a set: ")


def test_what_is_asked_for_by_teacher_forcing_needs_no_temperature(tmp_path: Path) -> None:
    text = MINIMAL + "reward: exact\nevaluation: {method: exact, n: 4}\n"
    assert load_recipe(written(tmp_path, text)).evaluation.n == 4


# ---------------------------------------------------------------- rewards that fit

TASKS = "{type: reasoning_gym, tasks: [gcd]}"
OVERLONG = "{reward: {type: overlong, buffer: 64}}"


def weighted(*parts: str) -> str:
    return f"{{type: weighted, parts: [{', '.join(parts)}]}}"


@pytest.mark.parametrize(
    "reward",
    [
        "reasoning_gym",
        weighted("{reward: {type: reasoning_gym}}", OVERLONG),
        weighted(f"{{reward: {weighted('{reward: {type: reasoning_gym}}')}}}", "{reward: {type: exact}}"),
        '{type: function, path: "mine:f"}',
        "{type: plugin, name: mine}",
    ],
)
def test_generated_tasks_are_judged_by_their_own_scorers_or_a_users(tmp_path: Path, reward: str) -> None:
    path = written(tmp_path)
    recipe = load_recipe(path, [f"data.train={TASKS}", f"reward={reward}"])
    assert recipe.data.train.type == "reasoning_gym"
    sets = f"evaluation.sets=[{{name: a, source: {TASKS}, reward: {reward}}}]"
    assert load_recipe(path, [sets]).evaluation.sets[0].source.type == "reasoning_gym"


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ([f"data.train={TASKS}"], "reward.type math cannot judge data.train.type reasoning_gym"),
        (
            [f"data.train={TASKS}", f"reward={weighted('{reward: {type: exact}}', OVERLONG)}"],
            "reward.parts.0.reward.type exact cannot judge data.train.type reasoning_gym",
        ),
        (
            [f"reward={weighted('{reward: {type: reasoning_gym}}', OVERLONG)}"],
            "reward.parts.0.reward.type reasoning_gym judges tasks of reasoning_gym only; data.train.",
        ),
        (
            [f"evaluation.sets=[{{name: a, source: {TASKS}}}]"],
            "reward.type math cannot judge evaluation.sets.0.source.type reasoning_gym",
        ),
        (
            [f"evaluation.sets=[{{name: a, source: {TASKS}, reward: exact}}]"],
            "evaluation.sets.0.reward.type exact cannot judge evaluation.sets.0.source.type reasoning_gym",
        ),
        (
            ["evaluation.sets=[{name: a, source: a/b, reward: reasoning_gym}]"],
            "evaluation.sets.0.reward.type reasoning_gym judges tasks of reasoning_gym only",
        ),
        (
            [
                f"evaluation.sets=[{{name: a, source: {TASKS}, reward: reasoning_gym}}]",
                "evaluation.method=exact",
                "reward=exact",
            ],
            "reward.type exact cannot judge evaluation.sets.0.source.type reasoning_gym",
        ),
    ],
)
def test_a_reward_that_cannot_judge_a_source_is_refused(
    tmp_path: Path, overrides: list[str], complaint: str
) -> None:
    (line,) = problems(tmp_path, MINIMAL, *overrides)
    assert f"): {complaint}" in line


@pytest.mark.parametrize("buffer", [1024, 5000])
def test_a_buffer_as_long_as_the_completions_is_refused(tmp_path: Path, buffer: int) -> None:
    part = f"{{reward: {{type: overlong, buffer: {buffer}}}}}"
    text = f"{MINIMAL}reward: {weighted('{reward: {type: math}}', f'{{reward: {weighted(part)}}}')}\n"
    assert problems(tmp_path, text) == [
        f"FILE: reward.parts.1.reward.parts.0.reward.buffer {buffer} must be smaller than "
        "rollout.max_new_tokens 1024, or completions are punished from their first token"
    ]
    assert load_recipe(written(tmp_path, text), [f"rollout.max_new_tokens={buffer + 1}"])


def test_a_buffer_of_an_evaluation_sets_own_reward_is_checked(tmp_path: Path) -> None:
    own = "{type: overlong, buffer: 1024}"
    (line,) = problems(
        tmp_path, f"{MINIMAL}evaluation: {{sets: [{{name: a, source: a/b, reward: {own}}}]}}\n"
    )
    assert line.startswith("FILE: evaluation.sets.0.reward.buffer 1024 must be smaller than ")


def test_shorter_completions_than_the_shipped_buffer_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(ROOT / "recipes" / "math.yaml", ["rollout.max_new_tokens=512"])
    assert "reward.parts.1.reward.buffer 1024 must be smaller than rollout.max_new_tokens 512" in str(
        caught.value
    )


def test_every_mistake_is_told_not_only_the_first(tmp_path: Path) -> None:
    lines = problems(tmp_path, MINIMAL + "batch: {group_size: 1}\nlearner: {los: dapo, lr: -1}\n", "steps=0")
    assert sorted(line.split(": ")[1] for line in lines) == [
        "batch.group_size",
        "learner.los",
        "learner.lr",
        "steps",
    ]


def test_a_union_without_default_says_which_types_there_are(tmp_path: Path) -> None:
    text = MINIMAL.replace("type: pretrained, ", "")
    assert problems(tmp_path, text) == [
        "FILE: policy.type: required, but not given; one of tiny_moe, pretrained"
    ]


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
        load_recipe("quickstrt")


def test_a_run_directory_given_as_recipe_suggests_the_recipe_in_it(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(MINIMAL)
    with pytest.raises(UserError, match=r"is a directory.*did you mean .*recipe\.yaml\?"):
        load_recipe(tmp_path)


# ---------------------------------------------------------------- what needs files


def model_directory(path: Path, *, without: str = "", positions: int = 2048) -> Path:
    """The files of a model, empty but for the configuration."""
    path.mkdir()
    config = {"model_type": "llama", "max_position_embeddings": positions}
    for name, text in {
        "config.json": json.dumps(config),
        "tokenizer.json": "{}",
        "model.safetensors": "",
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


# ---------------------------------------------------------------- defaults


@pytest.mark.parametrize("prompts", [4, 32, 2000])
def test_hybrid_with_no_other_key_is_the_recommended_method(tmp_path: Path, prompts: int) -> None:
    """The quickstart writes out what is recommended; beyond it, it rescores answers, for they are short."""
    recipe = load_recipe(written(tmp_path, f"{MINIMAL}estimator: hybrid\nbatch: {{prompts: {prompts}}}\n"))
    recommended = load_recipe(ROOT / "recipes/quickstart.yaml")
    assert recipe.prefill_probe
    assert recommended.prefill_probe
    changed = {"prefill_probe", "candidates", "answer_rescoring"}
    assert recipe.selection.model_dump(exclude=changed) == recommended.selection.model_dump(exclude=changed)
    assert (recipe.selection.answer_rescoring, recommended.selection.answer_rescoring) == (0, 8)
    settings = build_selector(recipe.selection.spec, prompts, 0).settings
    assert settings.considered == 8 * prompts
    at_the_quickstarts = build_selector(recipe.selection.spec, recommended.batch.prompts, 0).settings
    assert at_the_quickstarts.considered == recommended.selection.candidates


@pytest.mark.parametrize(
    ("blocks", "asked"),
    [
        ("estimator: hybrid", True),
        ("estimator: hybrid\nselection: uniform", True),
        ("estimator: hybrid\nselection: {prefill_probe: false}", False),
        ("estimator: mopps", False),
        ("estimator: uniform\nselection: uniform", False),
        ("estimator: {type: plugin, name: mine}", False),
        ("estimator: {type: plugin, name: mine}\nselection: {prefill_probe: true}", True),
    ],
)
def test_the_policy_is_probed_where_the_estimator_makes_use_of_it(
    tmp_path: Path, blocks: str, asked: bool
) -> None:
    assert load_recipe(written(tmp_path, f"{MINIMAL}{blocks}\n")).prefill_probe is asked
