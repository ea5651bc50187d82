"""What may become of a group, told apart as finely as its size allows: all wrong, mostly wrong, in between,
mostly right, all right. The three in the middle are the mixed ones.

Shapes: N groups, M rates, C = 5 outcomes.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import binom

MOSTLY = (1 / 3, 2 / 3)  # shares of right answers
OUTCOMES = len(MOSTLY) + 3


def outcome_of(successes_N: np.ndarray, trials_N: np.ndarray | int) -> np.ndarray:
    """(N,) int: 0 for all wrong … 4 for all right."""
    middle_N = 1 + np.searchsorted(MOSTLY, successes_N / np.asarray(trials_N))
    return np.where(successes_N == 0, 0, np.where(successes_N == trials_N, OUTCOMES - 1, middle_N))


def outcome_probabilities(rate_M: np.ndarray, group_size: int) -> np.ndarray:
    """(M, C): of groups of ``group_size`` independent rollouts that succeed at these rates."""
    successes = np.arange(group_size + 1)
    outcome = outcome_of(successes, group_size)
    probability_MK = binom.pmf(successes, group_size, rate_M[:, None])
    return np.column_stack([probability_MK[:, outcome == c].sum(axis=1) for c in range(OUTCOMES)])
