"""Classes of equal answers, by math-verify and by text, in real worker processes."""

from __future__ import annotations

import pytest

from depo.evaluation.answers import MATH, TEXT, Votes, vote_rule
from depo.recipe.schema import (
    ExactReward,
    FunctionReward,
    MathReward,
    Verification,
    WeightedPart,
    WeightedReward,
)


def row(completion: str, correct: bool | None = False, unparseable: bool = False) -> dict:
    return {"completion": completion, "correct": correct, "unparseable": unparseable}


PROBLEMS = {
    "forms": [
        row(r"\boxed{\frac{1}{2}}"),
        row("so the answer is $0.5$"),
        row(r"\boxed{1/2}"),
        row(r"\boxed{3}"),
        row("#### 3"),
        row(r"\boxed{7}", correct=True),
        row("no idea", unparseable=True),
        row(r"\boxed{9}", correct=None),
    ],
    "alone": [row(r"\boxed{x^2 - 1}"), row(r"\boxed{(x-1)(x+1)}"), row(r"\boxed{x}")],
    "right": [row(r"\boxed{1}", correct=True)],
}


@pytest.mark.parametrize("workers", [1, 2])
def test_wrong_answers_that_are_equal_vote_together(workers):
    with Votes(Verification(workers=workers, timeout=20)) as votes:
        assert votes.classes(MATH, PROBLEMS) == {"forms": [3, 2], "alone": [2, 1], "right": []}


def test_text_rules_compare_text():
    with Votes(Verification()) as votes:
        assert votes.classes(TEXT, {"p": [row("1/2"), row(" 1/2 "), row("0.5"), row("")]}) == {"p": [2, 1]}


def test_an_answer_is_read_where_the_reward_reads_it():
    read = {
        r"first \boxed{1}, no: \boxed{\frac{2}{3}}": r"\frac{2}{3}",
        "work\n#### 42": "42",
        "words only": "",
    }
    with Votes(Verification(workers=1, timeout=20)) as votes:
        assert votes.read(MATH, list(read)) == read


def test_long_answers_are_told_apart_by_their_ends():
    one, other = ([*range(100), last] for last in (100, 101))
    rows = [row(rf"\boxed{{{', '.join(map(str, numbers))}}}") for numbers in (one, other, one)]
    with Votes(Verification(workers=1, timeout=20)) as votes:
        assert votes.classes(MATH, {"p": rows}) == {"p": [2, 1]}


def test_rewards_without_answers_have_no_vote():
    weighted = WeightedReward(parts=[WeightedPart(reward=MathReward()), WeightedPart(reward=ExactReward())])
    assert vote_rule(weighted) == MATH
    assert vote_rule(ExactReward()) == TEXT
    assert vote_rule(FunctionReward(path="a:b")) is None
