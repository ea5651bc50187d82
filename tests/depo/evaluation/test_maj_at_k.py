"""maj@k against hand-worked votes and enumeration of all subsets."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import pytest

from depo.evaluation.measures import EXACT, drawn, exact, maj_at_k, method


def by_enumeration(right: int, wrong: list[int], abstain: int, k: int) -> float:
    """Every subset votes; ties are shared out; nobody voting is wrong."""
    answers = (
        ["right"] * right + [f"wrong {i}" for i, m in enumerate(wrong) for _ in range(m)] + [None] * abstain
    )
    total, subsets = 0.0, 0
    for subset in combinations(answers, k):
        subsets += 1
        votes = Counter(answer for answer in subset if answer is not None)
        top = [answer for answer, count in votes.items() if count == max(votes.values())]
        if "right" in top:
            total += 1 / len(top)
    return total / subsets


@pytest.mark.parametrize(
    ("right", "wrong", "abstain"),
    [
        (3, [2, 2, 1], 1),
        (1, [1, 1, 1], 0),
        (4, [5], 1),
        (2, [], 3),
        (3, [3, 3], 0),
        (0, [3], 2),
        (2, [4, 2], 2),
    ],
)
def test_it_is_the_mean_over_all_subsets(right, wrong, abstain):
    n = right + sum(wrong) + abstain
    for k in range(1, n + 1):
        assert maj_at_k(right, wrong, abstain, k) == pytest.approx(
            by_enumeration(right, wrong, abstain, k), abs=1e-12
        )


def test_hand_worked_votes():
    assert maj_at_k(3, [2], 0, 5) == 1.0
    assert maj_at_k(2, [3], 0, 5) == 0.0
    assert maj_at_k(2, [2], 1, 5) == 0.5, "a tie of two is half right"
    assert maj_at_k(1, [1, 1], 0, 3) == pytest.approx(1 / 3)
    assert maj_at_k(0, [], 4, 4) == 0.0, "when all abstain, nothing is right"
    assert maj_at_k(1, [], 3, 4) == 1.0, "one answer beats any number of abstentions"
    assert maj_at_k(3, [1], 0, 1) == pytest.approx(0.75), "one sample is its own majority"
    assert math.isnan(maj_at_k(1, [1], 0, 3))


def test_the_order_of_classes_does_not_matter():
    assert maj_at_k(4, [1, 3, 2], 1, 5) == maj_at_k(4, [3, 2, 1], 1, 5)


def test_random_subsets_take_over_for_many_samples_and_agree():
    wrong = (12, *[2] * 10)
    reference = exact(20, wrong, 4, 9)
    assert drawn(20, wrong, 4, 9, seed=0, key="a") == pytest.approx(reference, abs=0.03)
    assert drawn(20, wrong, 4, 9, 0, "a") == drawn(20, wrong, 4, 9, 0, "a") != drawn(20, wrong, 4, 9, 0, "b")
    assert method(EXACT) == "exact"
    assert method(EXACT + 1).startswith("Monte Carlo")
    many = maj_at_k(EXACT, [EXACT], 0, 11)
    assert many == pytest.approx(0.5, abs=0.03), "symmetric classes win equally often"
