"""How sure a predicted pass rate is: a Beta's concentration, fitted to what predicted groups turned out.

A head that predicts means m only leaves open how far the true rates scatter around them. With
p ~ Beta(m·s, (1−m)·s), k of n is beta-binomial; s is the one number that makes the recent groups, each
predicted *before* it was seen, most likely. N: groups, W: groups in the window, C: values of s tried.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

WINDOW = 1024
# The prior on s is log-normal around the initial value, this wide (natural log): a factor of 2.7 either
# way is one standard deviation, so that some dozens of groups outweigh it.
PRIOR_LOG_SD = 1.0
GRID = np.exp(np.linspace(math.log(0.05), math.log(200.0), 84))  # steps of 10 %


def beta_binomial_log_likelihood(
    a_N: np.ndarray, b_N: np.ndarray, successes_N: np.ndarray, trials_N: np.ndarray
) -> np.ndarray:
    """log P(k of n) for p ~ Beta(a, b), without the binomial coefficient, which knows nothing of a and b.

    The ratio of Beta functions B(a+k, b+n−k)/B(a, b) as rising factorials: no cancellation for large a and b.
    Arrays broadcast; time grows with the largest n.
    """
    a_N, b_N, successes_N, trials_N = np.broadcast_arrays(a_N, b_N, successes_N, trials_N)
    total_N = np.zeros(a_N.shape)
    for i in range(int(trials_N.max(initial=0))):
        total_N += np.where(i < successes_N, np.log(a_N + i), 0.0)
        total_N += np.where(i < trials_N - successes_N, np.log(b_N + i), 0.0)
        total_N -= np.where(i < trials_N, np.log(a_N + b_N + i), 0.0)
    return total_N


class ConcentrationFit:
    """The factor ``value`` by which base concentrations (1 where the head gives none) are multiplied.

    The mode of its posterior over the last ``WINDOW`` groups; ``initial`` while there are none.
    """

    def __init__(self, initial: float) -> None:
        if not 0 < initial < math.inf:
            raise ValueError(f"concentration must be positive and finite, found {initial}")
        self.initial = initial
        self.value = initial
        self._window: deque[tuple[float, float, float, float]] = deque(maxlen=WINDOW)

    def add(
        self, mean_N: np.ndarray, base_N: np.ndarray, successes_N: np.ndarray, trials_N: np.ndarray
    ) -> None:
        """Groups that came in, with the means and base concentrations predicted for them beforehand."""
        self._window.extend(zip(mean_N, base_N, successes_N, trials_N, strict=True))
        self._refit()

    def _refit(self) -> None:
        if not self._window:
            self.value = self.initial
            return
        mean_W, base_W, successes_W, trials_W = self.window().T[:, :, None]
        s_WC = base_W * GRID
        fit_C = beta_binomial_log_likelihood(mean_W * s_WC, (1 - mean_W) * s_WC, successes_W, trials_W).sum(0)
        fit_C -= (np.log(GRID / self.initial) / PRIOR_LOG_SD) ** 2 / 2
        self.value = float(GRID[int(np.argmax(fit_C))])

    def window(self) -> np.ndarray:
        """(W, 4) float64: mean, base concentration, successes, trials."""
        return np.array(self._window, dtype=np.float64).reshape(-1, 4)

    def restore(self, window_W4: np.ndarray) -> None:
        self._window.clear()
        self._window.extend(tuple(row) for row in np.asarray(window_W4, dtype=np.float64).tolist())
        self._refit()
