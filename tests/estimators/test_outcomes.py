"""Against an enumeration of all groups."""

from itertools import product

import numpy as np
import pytest

from estimators.outcomes import OUTCOMES, outcome_of, outcome_probabilities


def test_names_of_outcomes_by_hand():
    assert outcome_of(np.arange(9), 8).tolist() == [0, 1, 1, 2, 2, 2, 3, 3, 4]
    assert outcome_of(np.arange(5), 4).tolist() == [0, 1, 2, 3, 4]
    assert outcome_of(np.arange(3), 2).tolist() == [0, 2, 4]
    assert outcome_of(np.array([1, 4]), np.array([8, 4])).tolist() == [1, 4]


@pytest.mark.parametrize("group_size", [2, 4, 6])
def test_probabilities_are_those_of_all_groups_there_are(group_size):
    rate_M = np.array([0.0, 0.01, 0.4, 0.9, 1.0])
    expected_MC = np.zeros((len(rate_M), OUTCOMES))
    for verdicts in product([0, 1], repeat=group_size):
        right = sum(verdicts)
        c = int(outcome_of(np.array([right]), group_size)[0])
        expected_MC[:, c] += rate_M**right * (1 - rate_M) ** (group_size - right)
    np.testing.assert_allclose(outcome_probabilities(rate_M, group_size), expected_MC, atol=1e-12)
