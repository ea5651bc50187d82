"""A reference line that sees the future: how well outcomes could be predicted if pass rates were known.

N: prompts, T: steps, V: visits of one prompt.
"""

from __future__ import annotations

import numpy as np

SIGMA = 3.0


def kernel(visits: int, sigma: float = SIGMA) -> np.ndarray:
    """Gaussian weights (V, V) between visits, 0 for the visit itself."""
    distance_VV = np.subtract.outer(np.arange(visits), np.arange(visits))
    weight_VV = np.exp(-0.5 * (distance_VV / sigma) ** 2)
    np.fill_diagonal(weight_VV, 0.0)
    return weight_VV


def smoothed_rates(successes_NT: np.ndarray, trials_NT: np.ndarray, sigma: float = SIGMA) -> np.ndarray:
    """Pass rate at each visit from the prompt's other visits, earlier and later ones: Σ w·k / Σ w·n.

    (N, T) float64; NaN where nothing was recorded and where a prompt has no other visit. Visits are counted
    per prompt: steps at which it was not visited do not lie between them.
    """
    rate_NT = np.full(successes_NT.shape, np.nan)
    recorded_NT = trials_NT > 0
    patterns, pattern_N = np.unique(recorded_NT, axis=0, return_inverse=True)
    for index, pattern_T in enumerate(patterns):  # prompts with the same gaps share their weights
        columns = np.flatnonzero(pattern_T)
        if len(columns) < 2:
            continue
        cells = np.ix_(np.flatnonzero(pattern_N.reshape(-1) == index), columns)
        weight_VV = kernel(len(columns), sigma)
        rate_NT[cells] = (successes_NT[cells] @ weight_VV) / (trials_NT[cells] @ weight_VV)
    return rate_NT
