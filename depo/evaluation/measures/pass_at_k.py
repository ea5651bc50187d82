"""pass@k, the probability that at least one of k samples is right, without bias from n ≥ k of them.

Chen et al. 2021, "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374), eq. 1:

    pass@k = 1 − C(n − c, k) / C(n, k) = 1 − Π_{i = n − c + 1}^{n} (1 − k / i)

with c right samples of n. The product form has no large binomial in it and stays exact for large n.
"""

from __future__ import annotations

import numpy as np


def pass_at_k(n: int, correct: int, k: int) -> float:
    """pass@k of one problem. NaN when k > n: fewer samples than k say nothing about it without a model."""
    if not 0 <= correct <= n or k < 1:
        raise ValueError(f"need 0 <= correct <= n and k >= 1, found n {n}, correct {correct}, k {k}")
    if k > n:
        return float("nan")
    if n - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - correct + 1, n + 1)))


def pass_at_k_each(n_N: np.ndarray, correct_N: np.ndarray, k: int) -> np.ndarray:
    """pass@k of N problems, float64 (N,); NaN where a problem has fewer than k samples."""
    pairs, place_N = np.unique(np.stack([n_N, correct_N]), axis=1, return_inverse=True)
    values = np.array([pass_at_k(int(n), int(c), k) for n, c in pairs.T])
    return values[place_N.reshape(-1)]
