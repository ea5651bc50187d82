"""What every kind of mistake in a recipe is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_recipe import MINIMAL, problems, written

from depo.recipe.loading import load_recipe

LINES = [
    ("learner: {los: dapo}", [], "FILE: learner.los: unknown key; did you mean learner.loss?"),
    ("group_size: 4", [], "FILE: group_size: unknown key; did you mean batch.group_size?"),
    ("batch: {group_size: 0}", [], "FILE: batch.group_size: must be at least 1, found 0"),
    (
        "estimator: {type: bta}",
        [],
        'FILE: estimator.type: unknown type "bta"; one of uniform, depo, mopps, spo, greso, dps, hybrid, '
        "oracle, plugin",
    ),
    ("", ["steps=many"], "command line: steps: must be a whole number, found 'many'"),
    ("", ["steps=0"], "command line: steps: must be at least 1, found 0"),
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
        "selection: {candidates: 255}",
        [],
        "FILE: selection.candidates 255 must be at least batch.prompts 256: a round is chosen among them",
    ),
    (
        "estimator: mopps\nselection: {prefill_probe: true}",
        [],
        "FILE: selection.prefill_probe true needs estimator.type hybrid, which makes use of what the policy "
        "shows; estimator.type is mopps",
    ),
    (
        "estimator: greso",
        ["selection.answer_rescoring=8"],
        "command line: selection.answer_rescoring: is gone: the belief as baseline does better without "
        "(learner.baseline); leave it out",
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
    (
        "",
        ["estimator.recall=8"],
        "command line: estimator.recall: is gone: the belief as baseline does better without "
        "(learner.baseline); leave it out",
    ),
    (
        "estimator: {drift: false}",
        [],
        "FILE: estimator.drift: is gone: how fast counts are forgotten is learned; leave it out",
    ),
    ("selection: {max_waves: 3}", [], "FILE: selection.max_waves: is called selection.max_rounds now"),
    ("learner: {share_prompts: false}", [], "FILE: learner.share_prompts: is called learner.packing now"),
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


def test_every_mistake_is_told_not_only_the_first(tmp_path: Path) -> None:
    lines = problems(tmp_path, MINIMAL + "batch: {group_size: 0}\nlearner: {los: dapo, lr: -1}\n", "steps=0")
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
