"""From a belief about the success probability p to what a group of G rollouts will show.

Shapes: N candidates, G group size.

With p ~ Beta(a, b) and s = a + b, the probabilities of the beta-binomial follow from ratios of rising
factorials, E[p^n] = (a)_n / (s)_n. All quantities below are products and sums of non-negative terms, so
that they keep their relative accuracy for large counts, large G and beliefs close to 0 or 1, where
1 − E[p^G] − E[(1−p)^G] as written cancels to rounding noise.
"""

from __future__ import annotations

import numpy as np

from depo.estimators.base import Estimates


def require_group_size(group_size: int) -> int:
    """The group size itself. Raises ValueError unless it is an integer of at least 1."""
    if isinstance(group_size, bool) or not isinstance(group_size, int | np.integer) or group_size < 1:
        raise ValueError(f"group size must be an integer of at least 1, found {group_size!r}")
    return int(group_size)


def informative_probability(p_N: np.ndarray, group_size: int) -> np.ndarray:
    """1 − p^G − (1−p)^G for known p (N,) in [0, 1]: the probability that a group has both outcomes.

    0 for G = 1. Raises ValueError where p is NaN or outside [0, 1].
    """
    group_size = require_group_size(group_size)
    p_N = np.asarray(p_N, dtype=np.float64)
    if not ((p_N >= 0) & (p_N <= 1)).all():
        raise ValueError("success probabilities must lie in [0, 1]")
    if group_size == 1:
        return np.zeros_like(p_N)
    rarer_N = np.minimum(p_N, 1.0 - p_N)  # at most 1/2, so that log1p below is accurate and finite
    informative_N = -np.expm1(group_size * np.log1p(-rarer_N)) - rarer_N**group_size
    return np.clip(informative_N, 0.0, 1.0)


def beta_outcomes(
    a_N: np.ndarray, b_N: np.ndarray, group_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(p_informative, p_all_wrong, p_all_right), each (N,), of a group of G when p ~ Beta(a, b).

    ``p_informative`` is summed over the rollout n = 2 … G at which the first different verdict appears:
    E[p^(n−1) (1−p)] + E[(1−p)^(n−1) p]. Time grows as N·G.
    """
    group_size = require_group_size(group_size)
    total_N = a_N + b_N
    right_N = a_N / total_N  # E[p^n] for n = 1, then 2, …
    wrong_N = b_N / total_N
    informative_N = np.zeros_like(total_N)
    for n in range(1, group_size):
        next_total_N = total_N + n
        informative_N += (right_N * b_N + wrong_N * a_N) / next_total_N
        right_N = right_N * ((a_N + n) / next_total_N)
        wrong_N = wrong_N * ((b_N + n) / next_total_N)
    return np.minimum(informative_N, 1.0), wrong_N, right_N


def beta_estimates(a_N: np.ndarray, b_N: np.ndarray, group_size: int) -> Estimates:
    """Everything an estimator reports when its beliefs are Beta(a, b); a and b are (N,), positive, finite."""
    a_N = np.asarray(a_N, dtype=np.float64)
    b_N = np.asarray(b_N, dtype=np.float64)
    if not (np.isfinite(a_N) & np.isfinite(b_N) & (a_N > 0) & (b_N > 0)).all():
        raise ValueError("Beta parameters must be positive and finite")
    informative_N, wrong_N, right_N = beta_outcomes(a_N, b_N, group_size)
    total_N = a_N + b_N
    mean_N = a_N / total_N
    return Estimates(
        mean=mean_N,
        sd=np.sqrt(mean_N * (b_N / total_N) / (total_N + 1.0)),
        p_informative=informative_N,
        p_all_wrong=wrong_N,
        p_all_right=right_N,
        sample=lambda rng: rng.beta(a_N, b_N),
    )
