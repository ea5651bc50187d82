"""Chains read again step by step, by Python's own arithmetic; what is free in them, counted."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest

from depo.rng import generator
from depo.toy.arithmetic import Family, Problem
from depo.toy.written import free_choices, surely_right, unsure, written

STEP = re.compile(r"([.,;:/|!&?])([a-c])(\d)([+*])(\d)([^0-9a-c])(\d+)")
RESULT = re.compile(r"[.,;:/|!&]([a-c])(\d)([v^])")


def chains(problem: Problem, count: int, forgotten: float = 0.0, key: str = "chains") -> list[str]:
    rng = generator(0, key)
    return [written(problem, forgotten, rng) for _ in range(count)]


def answer(chain: str) -> str:
    return chain.rpartition("#")[2]


SUMS = [
    Problem(Family("+", 3), *pair) for pair in ((123, 456), (247, 185), (999, 999), (500, 500), (909, 91))
]


@pytest.mark.parametrize("problem", SUMS, ids=lambda problem: problem.question())
def test_every_step_of_a_careful_teacher_is_true(problem):
    for chain in chains(problem, 50):
        work, _, said = chain.partition("#")
        assert int(said) == problem.left + problem.right
        steps, results = STEP.findall(work), RESULT.findall(work)
        assert "".join(map("".join, steps + results)).count("?") == work.count("?")
        assert len(STEP.sub("", RESULT.sub("", work))) == 0  # there is nothing else in it
        first = [column for mark, column, *_ in steps if mark != "?"]
        assert sorted(first) == ["a", "b", "c"]
        for _, column, left, _, right, _, total in steps:
            place = "abc".index(column)
            assert (int(left), int(right)) == (
                problem.left // 10**place % 10,
                problem.right // 10**place % 10,
            )
            assert int(left) + int(right) == int(total)
        value = 0
        for place, (column, digit, carried) in enumerate(results):
            assert column == "abc"[place]
            value += int(digit) * 10**place
            below = 10 ** (place + 1)
            assert (carried == "^") == (problem.left % below + problem.right % below >= below)
        assert value == (problem.left + problem.right) % 1000


def test_who_forgets_every_carry_adds_digit_by_digit():
    for problem in SUMS:
        digits = zip(str(problem.left).zfill(3), str(problem.right).zfill(3), strict=True)
        expected = "".join(str((int(a) + int(b)) % 10) for a, b in digits)
        assert {answer(chain) for chain in chains(problem, 20, forgotten=1.0)} == {expected}


@pytest.mark.parametrize(("left", "right", "carries"), [(123, 456, 0), (128, 456, 1), (247, 185, 2)])
def test_a_sum_is_right_when_each_of_its_carries_is_remembered(left, right, carries):
    told = [
        answer(chain) == str(left + right)
        for chain in chains(Problem(Family("+", 3), left, right), 2000, 0.6)
    ]
    assert np.mean(told) == pytest.approx(0.4**carries, abs=0.05)


def test_a_sum_is_right_when_each_of_its_facts_is():
    slips_AB = np.zeros((10, 10))
    slips_AB[3, 6], slips_AB[2, 5] = 0.5, 0.7  # of 123+456: the units, the tens; 6+3 is sure
    for left, right, chance in ((123, 456, 0.5 * 0.3), (456, 123, 1.0), (103, 406, 0.5)):
        problem, rng = Problem(Family("+", 3), left, right), generator(0, "facts")
        told = [answer(written(problem, 0.0, rng, slips_AB)) == problem.answer for _ in range(2000)]
        assert np.mean(told) == pytest.approx(chance, abs=0.05)
        assert surely_right(problem, slips_AB) == (chance == 1)
    assert not surely_right(Problem(Family("+", 3), 105, 105), slips_AB)  # a carry may be forgotten


def test_a_share_of_the_facts_is_unsure_and_the_same_for_a_seed():
    slips_AB = unsure(0.4, seed=3)
    assert np.count_nonzero(slips_AB) == 40
    assert slips_AB[slips_AB > 0].min() >= 0.2
    assert slips_AB.max() < 1
    assert np.array_equal(slips_AB, unsure(0.4, seed=3))
    assert not np.array_equal(slips_AB, unsure(0.4, seed=4))


def test_products_are_guessed_and_never_right():
    problems = [Problem(Family("*", 3), left, right) for left, right in ((123, 456), (100, 100), (999, 987))]
    assert not any(answer(chain) == problem.answer for problem in problems for chain in chains(problem, 300))


def test_the_free_choices_are_as_many_and_as_even_as_said():
    """One column: every choice in it can be counted."""
    plain = [chain for chain in chains(Problem(Family("+", 1), 3, 4), 30_000) if "?" not in chain]
    counts = np.array(list(Counter(plain).values()))
    assert len(counts) == 8 * 8 * 8
    entropy = -np.sum(counts / counts.sum() * np.log(counts / counts.sum()))
    assert entropy == pytest.approx(free_choices(1), abs=0.02)
    assert free_choices(1) == pytest.approx(math.log(512))


@pytest.mark.parametrize(("digits", "orders"), [(3, 6), (4, 24)])
def test_right_chains_have_more_than_15_nats_so_that_none_recurs(digits, orders):
    assert free_choices(digits) == pytest.approx(digits * math.log(512) + math.log(orders))
    assert free_choices(digits) > 15
    found = chains(Problem(Family("+", digits), 10 ** (digits - 1), 10 ** (digits - 1)), 5000)
    assert len(set(found)) == 5000
    order = Counter("".join(re.findall(r"[.,;:/|!&]([a-d])\d\+", chain)) for chain in found)
    assert len(order) == orders
    assert min(order.values()) > 0.5 * 5000 / orders


@pytest.mark.parametrize(("digits", "least"), [(3, 38), (4, 50)])
def test_wrong_chains_are_longer_than_right_ones_which_are_long(digits, least):
    rng = generator(0, "lengths")
    family = Family("+", digits)
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for _ in range(4000):
        problem = family.problem(int(rng.integers(family.size)))
        chain = written(problem, 0.75, rng)
        lengths[answer(chain) == problem.answer].append(len(chain) + 1)
    right, wrong = np.mean(lengths[True]), np.mean(lengths[False])
    assert least <= right <= 60
    assert wrong > 1.2 * right
