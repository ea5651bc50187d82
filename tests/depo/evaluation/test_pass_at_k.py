"""pass@k against enumeration of all subsets."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from depo.evaluation.measures import pass_at_k, pass_at_k_each


@pytest.mark.parametrize("n", range(1, 8))
def test_it_is_the_share_of_subsets_with_a_right_sample(n):
    for correct in range(n + 1):
        samples = [True] * correct + [False] * (n - correct)
        for k in range(1, n + 1):
            subsets = list(combinations(samples, k))
            share = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(n, correct, k) == pytest.approx(share, abs=1e-12)


def test_it_stays_exact_where_binomials_overflow():
    # C(100000, 50000) has 30,000 digits. One right sample of n: it is among k of n with probability k / n.
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5, abs=1e-9)
    # Against exact integer arithmetic.
    exact = 1 - math.comb(9_990, 300) / math.comb(10_000, 300)
    assert pass_at_k(10_000, 10, 300) == pytest.approx(exact, abs=1e-12)


def test_fewer_samples_than_k_give_no_figure():
    assert math.isnan(pass_at_k(3, 3, 4))
    values = pass_at_k_each(np.array([4, 2, 4]), np.array([1, 2, 4]), 3)
    assert values[0] == pytest.approx(0.75)
    assert np.isnan(values[1])
    assert values[2] == 1.0


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="correct 5"):
        pass_at_k(4, 5, 1)
