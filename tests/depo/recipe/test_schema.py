"""What the blocks of a recipe demand of each other, and what they are by default."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from small_recipe import MINIMAL, problems, weighted, written

from depo.errors import UserError
from depo.recipe.loading import load_recipe
from depo.recipe.reference import flattened, sections_of
from depo.recipe.schema import Block, Recipe
from depo.recipe.schema.evaluation import Suite
from depo.selection import build_selector

ROOT = Path(__file__).parents[3]


TASKS = "{type: reasoning_gym, tasks: [gcd]}"
OVERLONG = "{reward: {type: overlong, buffer: 64}}"


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


@pytest.mark.parametrize("prompts", [4, 32, 2000])
def test_eight_candidates_for_each_prompt_are_considered(tmp_path: Path, prompts: int) -> None:
    recipe = load_recipe(written(tmp_path), [f"batch.prompts={prompts}"])
    assert build_selector(recipe.selection.spec, prompts, 0).settings.considered == 8 * prompts


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("steps=true", "steps: must be a whole number, found true"),
        ("learner.betas=[true, 0.9]", "learner.betas.0: must be a number, found true"),
        ("learner.lr=true", "learner.lr: must be a number, found true"),
        (
            "selection.candidates=true",
            "selection.candidates: must be a whole number or must be auto, found true",
        ),
        (
            "estimator={type: depo, model: x, replay: true}",
            "estimator.replay: must be a whole number, found true",
        ),
        (
            "batch.group_size=100000000000",
            "batch.group_size: must be at most 10,000, found 100,000,000,000: ",
        ),
        ("rollout.temperature=1e-300", "rollout.temperature: must be at least 0.001, found 1e-300"),
        ("evaluation.temperature=1e-300", "temperature must be 0 (greedy) or at least 0.001, found 1e-300"),
        (
            "resources.threads=100000000",
            "resources.threads: must be at most 4,096, found 100,000,000: no machine ",
        ),
        ("resources.learner_gpus=8", "must be at most 1, found 8: a rank of the learner works on one GPU"),
        (f"name={'x' * 300}", "… (300 characters)"),
    ],
)
def test_a_number_that_can_only_be_a_slip_is_refused(tmp_path: Path, override: str, what: str) -> None:
    (line,) = problems(tmp_path, MINIMAL, override)
    assert what in line


def numbers_in(annotation: Any, metadata: list[Any]) -> Iterator[list[Any]]:
    """What bounds each number that a field's type names, lists and unions entered."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from numbers_in(arguments[0], [*arguments[1:], *metadata])
    elif annotation in (int, float):
        yield list(flattened(metadata))
    elif origin is not Literal:
        for part in arguments:
            yield from numbers_in(part, metadata if origin in (Union, UnionType) else [])


@pytest.mark.parametrize("root", [Recipe, Suite])
def test_every_number_has_an_upper_bound_and_is_no_boolean(root: type[Block]) -> None:
    for section in sections_of("", "", root, set()):
        for name, field in section.model.model_fields.items():
            for bounds in numbers_in(field.annotation, field.metadata):
                assert any(hasattr(one, "le") or hasattr(one, "lt") for one in bounds), (section.title, name)
                assert any(getattr(one, "strict", False) for one in bounds), (section.title, name)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("data.grade.samples=0", "data.grade needs samples above 0 with reward.after"),
        ("reward={type: exact}", 'policy.warm_start.written needs reward.after "#"'),
        ("policy.warm_start.written=false", 'policy.warm_start.written needs reward.after "#"'),
        ("evaluation={method: exact}", "evaluation.method exact needs reward.type exact, without after"),
        (
            "estimator={type: oracle, live: true}",
            "estimator.live of the oracle needs reward.type exact, without",
        ),
    ],
)
def test_an_answer_behind_written_work_has_no_probability_to_go_by(override: str, complaint: str) -> None:
    overrides = [override]
    if "oracle" in override:
        overrides.append("selection.prefill_probe=false")
    with pytest.raises(UserError) as caught:
        load_recipe(ROOT / "recipes" / "chains.yaml", overrides)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ([], "rollout.engine transformers is the learner's own process; set rollout.engine vllm"),
        (
            ["rollout.engine=vllm", "resources.learner_gpus=0"],
            "with resources.learner_gpus 0 they share a GPU",
        ),
        (["rollout.engine=vllm", "resources.learner_gpus=0", "learner.device=cpu"], None),
        (["rollout.engine=vllm"], None),
    ],
)
def test_rollouts_ahead_need_engines_apart_from_the_learner(
    tmp_path: Path, settings: list[str], says: str | None
) -> None:
    settings = ["rollout.max_off_policy_steps=1", *settings]
    if says is None:
        assert load_recipe(written(tmp_path), settings).rollout.max_off_policy_steps == 1
    else:
        (line,) = problems(tmp_path, MINIMAL, *settings)
        assert "rollout.max_off_policy_steps 1 needs engines that work while the learner does" in line
        assert says in line


def method(recipe: Recipe) -> tuple[Any, ...]:
    headroom = getattr(recipe.selection, "headroom", None)
    baseline, learner = recipe.learner.baseline.type, recipe.learner
    return recipe.batch.prompts, recipe.batch.group_size, baseline, learner.min_advantage, headroom


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (256, 2, "belief", 0.5, 1.0)),
        (["estimator=hybrid", "selection={draws: 1}"], (256, 2, "belief", 0.5, 1.0)),
        (["learner.baseline=belief"], (256, 2, "belief", 0.5, 1.0)),
        (["batch.group_size=4"], (64, 4, "belief", 0.5, 1.0)),
        (["batch.prompts=32"], (32, 2, "belief", 0.5, 1.0)),
        (["learner.min_advantage=0.0", "selection.headroom=0.5"], (256, 2, "belief", 0.0, 0.5)),
        (["learner.baseline=group"], (64, 8, "group", 0.0, 0.0)),
        (["learner.baseline={type: plugin, name: mine}"], (64, 8, "plugin", 0.0, 0.0)),
        (["estimator=mopps"], (64, 8, "group", 0.0, 0.0)),
        (["estimator=mopps", "learner.baseline=belief"], (64, 8, "belief", 0.0, 0.0)),
        (["selection=uniform"], (64, 8, "group", 0.0, None)),
        (["selection=greedy"], (64, 8, "group", 0.0, None)),
    ],
)
def test_hybrid_by_thompson_sampling_is_a_whole_method_and_gives_way_to_what_is_said(
    tmp_path: Path, overrides: list[str], expected: tuple[Any, ...]
) -> None:
    assert method(load_recipe(written(tmp_path), overrides)) == expected


def test_the_method_in_docs_is_the_one_that_goes_unsaid(tmp_path: Path) -> None:
    """docs/baseline.md writes it out."""
    page = (ROOT / "docs/baseline.md").read_text(encoding="utf-8")
    said = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    silent = yaml.safe_load(MINIMAL)
    assert not said.keys() & silent.keys()
    assert Recipe.model_validate(silent | said) == Recipe.model_validate(silent)
