"""Problems, their answers and phrasings, against Python's own arithmetic and column addition by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from depo.errors import UserError
from depo.recipe.schema import ArithmeticSource
from depo.rng import generator
from depo.toy.arithmetic import (
    Family,
    Problem,
    arithmetic_rows,
    draw_family,
    draw_problems,
    families,
    in_words,
    parse_family,
)


def test_answers_are_what_python_computes():
    source = ArithmeticSource(operations=["+", "-", "*"], digits=[1, 2, 3], size=600)
    for question, answer, prior in arithmetic_rows(source, "data.train"):
        assert prior is None
        assert int(answer) == eval(question.removesuffix("="))


def test_carries_are_those_of_adding_by_hand():
    for problem in draw_problems(ArithmeticSource(operations=["+"], digits=[1, 2, 3], size=600)):
        carry, carries = 0, 0
        for left, right in zip(reversed(str(problem.left)), reversed(str(problem.right)), strict=True):
            carry = (int(left) + int(right) + carry) // 10
            carries += carry
        assert problem.carries == carries
    assert Problem(Family("*", 2), 99, 99).carries == 0


def test_even_carries_gives_as_many_sums_with_each_number_of_carries():
    source = ArithmeticSource(operations=["+", "*"], digits=[3], carries="even", size=800)
    problems = draw_problems(source)
    assert len(set(problems)) == 800
    sums = Counter(problem.carries for problem in problems if problem.family.operation == "+")
    assert sums == {0: 100, 1: 100, 2: 100, 3: 100}


def test_numbers_are_spelled_as_in_english():
    spelled = {
        0: "zero",
        10: "ten",
        13: "thirteen",
        20: "twenty",
        42: "forty-two",
        100: "one hundred",
        115: "one hundred fifteen",
        421: "four hundred twenty-one",
        999: "nine hundred ninety-nine",
    }
    assert {number: in_words(number) for number in spelled} == spelled
    assert len({in_words(number) for number in range(1000)}) == 1000
    with pytest.raises(ValueError, match="1000"):
        in_words(1000)


@pytest.mark.parametrize(
    ("sign", "word", "answer"), [("+", "plus", "19"), ("-", "minus", "5"), ("*", "times", "84")]
)
def test_all_phrasings_ask_the_same_question(sign, word, answer):
    problem = Problem(Family(sign, 2), 12, 7)
    assert problem.question("digits") == f"12{sign}7="
    assert problem.question("words") == f"What is twelve {word} seven?"
    assert problem.question("columns") == f"b1{sign}0a2{sign}7="
    assert problem.answer == answer


def test_words_end_at_three_digits_and_columns_at_nine():
    with pytest.raises(UserError, match=r"data\.train\.digits: 4"):
        families(ArithmeticSource(phrasing="words", digits=[1, 4]))
    with pytest.raises(UserError, match=r"data\.train\.digits: 10 .* up to 9 digits"):
        families(ArithmeticSource(phrasing="columns", digits=[1, 10]))


def test_families_hold_operands_of_their_length_only():
    assert Family("+", 1).size == 100
    assert Family("+", 2).size == 8100
    two_digits = {Family("+", 2).problem(number) for number in range(8100)}
    assert len(two_digits) == 8100
    assert {problem.left for problem in two_digits} == set(range(10, 100))
    assert {problem.right for problem in two_digits} == set(range(10, 100))


def test_a_source_draws_distinct_problems_evenly_and_by_its_seed():
    source = ArithmeticSource(operations=["+", "-"], digits=[2, 5], size=400)
    problems = draw_problems(source)
    assert len(set(problems)) == len(problems) == 400
    counts = {family: sum(problem.family == family for problem in problems) for family in families(source)}
    assert set(counts.values()) == {100}
    assert draw_problems(source) == problems
    assert draw_problems(source.model_copy(update={"seed": 1})) != problems


def test_large_families_fill_up_what_small_ones_lack():
    problems = draw_problems(ArithmeticSource(operations=["+"], digits=[1, 3], size=500))
    assert sum(problem.family.digits == 1 for problem in problems) == 100
    assert len(problems) == 500
    everything = draw_problems(ArithmeticSource(operations=["+"], digits=[1], size=500))
    assert len(set(everything)) == len(everything) == 100


@pytest.mark.parametrize(("digits", "count"), [(1, 30), (4, 30)])
def test_excluded_problems_are_never_drawn(digits, count):
    family = Family("+", digits)
    first = draw_family(family, count, generator(0, "test"))
    second = draw_family(family, count, generator(0, "test"), excluded=first)
    assert len(set(first) | set(second)) == 2 * count


def carried_never(left: int, right: int) -> int:
    """Column addition on paper; the leading column is written out whole."""
    columns = list(zip(str(left), str(right), strict=True))
    leading, *rest = [int(a) + int(b) for a, b in columns]
    return int(str(leading) + "".join(str(total)[-1] for total in rest))


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_a_careless_teacher_forgets_every_carry(digits):
    family = Family("+", digits)
    step = max(1, family.size // 8100)
    for number in range(0, family.size, step):
        problem = family.problem(number)
        assert int(problem.careless_answer) == carried_never(problem.left, problem.right)
    assert Problem(Family("+", 2), 38, 45).careless_answer == "73"
    assert Problem(Family("+", 2), 78, 45).careless_answer == "113"
    assert Problem(Family("-", 2), 38, 45).careless_answer == "-7"


@pytest.mark.parametrize("name", ["", "+", "2", "/2", "+0", "+x", "2+"])
def test_a_wrong_family_name_is_refused_with_an_example(name):
    with pytest.raises(ValueError, match=r"like \+2"):
        parse_family(name)
    assert str(parse_family("*3")) == "*3"
