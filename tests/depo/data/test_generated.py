"""Generated sources: reasoning_gym tasks and arithmetic."""

from __future__ import annotations

import json
import re

import pytest

from depo.config import Data
from depo.data import load_prompts
from depo.errors import UserError


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


def test_a_task_whose_scorer_does_not_survive_storage_is_refused(tokenizer):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(UserError, match="rearc"):
        load({"type": "reasoning_gym", "tasks": ["rearc"], "size": 1}, tokenizer)


def test_arithmetic_answers_are_right(tokenizer):
    source = {"type": "arithmetic", "phrasing": "digits", "operations": ["+", "-", "*"], "size": 60}
    prompts, report = load(source, tokenizer)
    assert report.kept == 60
    for prompt in prompts:
        left, operation, right = re.fullmatch(r"(\d+)([-+*])(\d+)=", prompt.text).groups()
        a, b = int(left), int(right)
        assert int(prompt.reference) == {"+": a + b, "-": a - b, "*": a * b}[operation]
