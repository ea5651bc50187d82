"""Measured pass rates against step-by-step forward passes and samples; composition by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from depo.data.text import prompt_key
from depo.errors import UserError
from depo.recipe.schema import Grading, Recipe
from depo.rng import seed64
from depo.rollout.engine import Sampling
from depo.rollout.transformers import TransformersEngine
from depo.toy.arithmetic import Family, Problem, draw_problems
from depo.toy.grading import (
    TooFewProblems,
    candidates,
    compose,
    encode,
    grade,
    level_of,
    measure,
    pass_rates,
    solvable_accuracy,
    wanted,
)
from depo.types import Prompt, Request

RULES = Grading(
    mastered=0.25,
    learnable=0.25,
    impossible=0.5,
    mastered_above=0.7,
    learnable_between=(0.02, 0.35),
    impossible_below=0.01,
)
PROBLEMS = [Problem(Family("+", 1), 3, 4), Problem(Family("*", 2), 12, 34), Problem(Family("-", 1), 2, 9)]


def recipe(source=None, limit=8, **grading) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "graded",
            "steps": 1,
            "policy": {"type": "tiny_moe"},
            "data": {
                "train": source
                or {"type": "arithmetic", "operations": ["+", "*"], "digits": [2], "size": 600},
                "grade": {"pool": 40, "heldout": 20} | grading,
                "max_prompt_tokens": 16,
                "raw": True,
            },
            "rollout": {"max_new_tokens": limit},
            "reward": {"type": "exact"},
        }
    )


@pytest.fixture(scope="module")
def tokenizer(tiny_policy):
    return AutoTokenizer.from_pretrained(tiny_policy)


@pytest.fixture(scope="module")
def model(tiny_policy):
    model = AutoModelForCausalLM.from_pretrained(tiny_policy).eval()
    with torch.no_grad():
        model.model.norm.weight.mul_(5.0)  # sharper, so that pass rates differ
    return model


@torch.no_grad()
def rate_token_by_token(model, tokenizer, problem):
    ids, answer = encode(tokenizer, problem.question(), problem.answer)
    assert answer[-1] == tokenizer.eos_token_id
    rate = 1.0
    for token in answer:
        rate *= model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1)[token].item()
        ids = [*ids, token]
    return rate


def test_a_pass_rate_is_the_product_over_answer_and_end_token(model, tokenizer):
    rates = pass_rates(model, tokenizer, PROBLEMS)
    expected = [rate_token_by_token(model, tokenizer, problem) for problem in PROBLEMS]
    np.testing.assert_allclose(rates, expected, rtol=1e-4)


@pytest.mark.slow
def test_a_pass_rate_is_how_often_samples_are_right(model, tokenizer):
    engine = TransformersEngine(
        model, pad_token_id=tokenizer.pad_token_id, eos_token_ids=[tokenizer.eos_token_id], batch_size=4096
    )
    problems = [Problem(Family("+", 1), left, right) for left in range(10) for right in range(10)]
    problem = max(problems, key=lambda candidate: pass_rates(model, tokenizer, [candidate])[0])
    rate = pass_rates(model, tokenizer, [problem])[0]
    n = 20_000
    prompt = Prompt("k", "", tuple(encode(tokenizer, problem.question(), problem.answer)[0]), problem.answer)
    asked = [Request(prompt, tuple(seed64(0, "grading", index=i) for i in range(n)))]
    answers = [
        tokenizer.decode(rollout.token_ids.tolist(), skip_special_tokens=True)
        for rollout in engine.generate(asked, Sampling(1.0, 4))
        if rollout.finish_reason == "stop"
    ]
    assert rate > 1e-3
    assert answers.count(problem.answer) == pytest.approx(n * rate, abs=4.5 * np.sqrt(n * rate))


@torch.no_grad()
def chance_of_two_tokens(model, tokenizer, problem):
    """Probability that two tokens, or one and the end, decode to the answer: all pairs, enumerated."""
    ids = tokenizer.encode(problem.question(), add_special_tokens=False)
    first_V = model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1)
    rows = torch.tensor([[*ids, token] for token in range(len(tokenizer))])
    second_VV = model(input_ids=rows).logits[:, -1].double().softmax(-1)
    right = 0.0
    for one, two in np.ndindex(*second_VV.shape):
        ended = one == tokenizer.eos_token_id
        text = tokenizer.decode([one] if ended else [one, two], skip_special_tokens=True)
        right += float(first_V[one] * second_VV[one, two]) * (text == problem.answer)
    return right


def test_sampled_pass_rates_are_near_the_true_ones_and_compose_what_the_recipe_asks(tiny_policy, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    model = AutoModelForCausalLM.from_pretrained(tiny_policy).eval()
    with torch.no_grad():
        model.model.norm.weight.mul_(0.5)  # near chance
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    data = {"type": "arithmetic", "operations": ["+", "*"], "digits": [1], "size": 180}
    levels = {"mastered_above": 0.05, "learnable_between": [0.03, 0.05], "impossible_below": 0.03}
    sampled = recipe(source=data, limit=2, samples=32, pool=20, heldout=10, **levels)
    problems = draw_problems(sampled.data.train)
    measured = measure(sampled, model, tokenizer, problems)
    right = 32 * sum(chance_of_two_tokens(model, tokenizer, problem) for problem in problems)
    assert right > 40
    assert 32 * measured.rates_N.sum() == pytest.approx(right, abs=4 * np.sqrt(right))
    assert "right ones of 2.0 tokens" in measured.samples

    lines = []
    graded = grade(sampled, tmp_path, lines.append)
    assert shares(graded) == [
        {"mastered": 5, "learnable": 5, "impossible": 10},
        {"mastered": 2, "learnable": 2, "impossible": 6},
    ]
    assert any(line.startswith("training pool candidates, ") for line in lines)


@pytest.mark.parametrize(
    ("rate", "level"),
    [
        (1.0, "mastered"),
        (0.7, "mastered"),
        (0.69, None),
        (0.35, None),
        (0.34, "learnable"),
        (0.02, "learnable"),
        (0.019, None),
        (0.01, None),
        (0.009, "impossible"),
        (0.0, "impossible"),
    ],
)
def test_levels_follow_the_thresholds_and_leave_the_gaps_out(rate, level):
    assert level_of(rate, RULES) == level


def test_a_composed_set_has_the_recipes_shares_and_the_first_candidates_of_each_level():
    #                 0    1    2     3    4     5    6    7    8     9
    rates = np.array([0.9, 0.5, 0.1, 0.0, 0.015, 0.8, 0.2, 0.0, 0.001, 0.95])
    chosen, levels = compose(rates, RULES, 4)
    assert chosen.tolist() == [0, 2, 3, 7]
    assert levels == ["mastered", "learnable", "impossible", "impossible"]
    assert solvable_accuracy(rates, RULES, 4) == pytest.approx((0.9 + 0.1) / 2)


def test_a_level_with_too_few_candidates_is_named_with_both_numbers():
    with pytest.raises(TooFewProblems, match="1 mastered where 2 are wanted, 1 learnable where 2 are wanted"):
        compose(np.array([0.1, 0.0, 0.8, 0.0, 0.0, 0.0]), RULES, 8)


@pytest.mark.parametrize("count", [1, 3, 7, 399, 400])
def test_levels_add_up_to_the_set(count):
    assert sum(wanted(RULES, count).values()) == count


def test_candidates_for_pool_and_heldout_share_no_problem():
    both = candidates(recipe())
    assert len(both.train) + len(both.heldout) == 600
    assert len(both.heldout) == 200
    assert not set(both.train) & set(both.heldout)
    assert candidates(recipe()) == both


def shares(graded) -> list[Counter]:
    """Prompts of each level, in the pool and in the held-out set."""
    return [Counter(graded.levels[p.key] for p in prompts) for prompts in (graded.train, graded.heldout)]


def test_grading_composes_both_sets_by_what_it_measures(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    measured = pass_rates(model, tokenizer, candidates(recipe()).heldout)
    low, middle, high = (float(np.quantile(measured, q)) for q in (0.4, 0.6, 0.7))
    graded_recipe = recipe(impossible_below=low, learnable_between=[low, middle], mastered_above=high)
    lines = []
    graded = grade(graded_recipe, tmp_path, lines.append)

    assert shares(graded) == [
        {"mastered": 10, "learnable": 10, "impossible": 20},
        {"mastered": 5, "learnable": 5, "impossible": 10},
    ]
    assert not {prompt.key for prompt in graded.train} & {prompt.key for prompt in graded.heldout}
    problems = {
        problem.question(): problem
        for problem in [*candidates(recipe()).train, *candidates(recipe()).heldout]
    }
    rules = graded_recipe.data.grade
    again = {}
    for prompt in [*graded.train, *graded.heldout]:
        problem = problems[prompt.text]
        again[prompt.key] = rate_token_by_token(model, tokenizer, problem)
        assert graded.levels[prompt.key] == level_of(again[prompt.key], rules)
        assert prompt.reference == problem.answer
        assert prompt.key == prompt_key(prompt.text)
        assert tokenizer.decode(prompt.token_ids) == prompt.text
    assert graded.accuracy == pytest.approx(np.mean([again[p.key] for p in graded.heldout]))
    part = graded.prompts.parts["solvable"]
    assert part == {p.key for p in graded.heldout if again[p.key] >= low}
    solvable = [again[p.key] for p in graded.heldout if p.key in part]
    assert graded.solvable_accuracy == pytest.approx(np.mean(solvable))
    assert "mastered 25% (" in lines[0]
    assert "s of 2 digits" in lines[0]
    assert "impossible 50%" in lines[0]

    taken = {prompt.text for prompt in [*graded.train, *graded.heldout]}
    others = grade(graded_recipe, tmp_path, lines.append, known={problems[text] for text in taken})
    assert shares(others) == shares(graded)
    assert not taken & {prompt.text for prompt in [*others.train, *others.heldout]}


def test_an_untrained_policy_cannot_be_graded_and_the_message_says_what_to_change(tiny_policy):
    with pytest.raises(
        UserError,
        match=r"data\.grade: of 400 candidates for the training pool 0 mastered where 10 are wanted",
    ):
        grade(recipe(), tiny_policy, lambda line: None)
