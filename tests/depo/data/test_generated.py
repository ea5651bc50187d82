"""Generated sources: reasoning_gym tasks and arithmetic."""

from __future__ import annotations

import json
import re

import pytest

from depo import reward
from depo.data import load_prompts
from depo.errors import UserError
from depo.recipe.schema import Data


def load(source: dict, tokenizer):
    data = Data.model_validate({"train": source})
    return load_prompts(data.train, data, tokenizer)


def test_reasoning_gym_references_let_the_task_score_its_own_answers(tokenizer):
    reasoning_gym = pytest.importorskip("reasoning_gym")
    prompts, report = load(
        {"type": "reasoning_gym", "tasks": ["gcd", "basic_arithmetic"], "size": 5, "seed": 3}, tokenizer
    )
    assert report.read == 10
    tasks = set()
    for prompt in prompts:
        reference = json.loads(prompt.reference)
        tasks.add(reference["task"])
        entry = reference["entry"]
        assert prompt.text == entry["question"]
        score = reasoning_gym.get_score_answer_fn(reference["task"])
        assert score(entry["answer"], entry) == 1.0
        assert score("nonsense", entry) < 1.0
    assert tasks == {"gcd", "basic_arithmetic"}


def test_an_unknown_task_names_its_neighbours(tokenizer):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(
        UserError,
        match=r"data\.train\.tasks: reasoning_gym has no task 'basic_arithmetics'.*basic_arithmetic",
    ):
        load({"type": "reasoning_gym", "tasks": ["basic_arithmetics"]}, tokenizer)


def test_boards_of_tuples_survive_being_stored(tokenizer):
    pytest.importorskip("reasoning_gym")
    prompts, _ = load({"type": "reasoning_gym", "tasks": ["rearc", "arc_agi"], "size": 1}, tokenizer)
    judge = reward.build({"type": "reasoning_gym"})
    for prompt in prompts:
        answer = json.loads(prompt.reference)["entry"]["answer"]
        (score,) = judge.score([reward.Sample(answer, prompt.reference, 1, "stop", 10)])
        assert score.correct


def test_another_seed_is_other_problems_and_the_same_one_the_same(tokenizer):
    """Of sums and divisors of large numbers hardly any can meet by chance."""
    pytest.importorskip("reasoning_gym")

    def keys(seed: int) -> set[str]:
        tasks = ["gcd", "chain_sum"]
        source = {"type": "reasoning_gym", "tasks": tasks, "size": 100, "seed": seed}
        return {prompt.key for prompt in load(source, tokenizer)[0]}

    assert keys(0) == keys(0)
    for other in (1, 7):
        assert len(keys(0) & keys(other)) <= 6


def test_arithmetic_answers_are_right(tokenizer):
    source = {"type": "arithmetic", "phrasing": "digits", "operations": ["+", "-", "*"], "size": 60}
    prompts, report = load(source, tokenizer)
    assert report.kept == 60
    for prompt in prompts:
        left, operation, right = re.fullmatch(r"(\d+)([-+*])(\d+)=", prompt.text).groups()
        a, b = int(left), int(right)
        assert int(prompt.reference) == {"+": a + b, "-": a - b, "*": a * b}[operation]
