"""Beliefs about a pass rate as weights on a grid over its logit.

A grid holds any shape a belief can take: two humps before the first visit, a long tail after eight failures.
Between visits a belief spreads as a continuous-time random walk along the grid, which keeps weights
positive and their sum at 1 whatever the elapsed time. The walk's generator has the cosines as eigenvectors,
so that spreading is a multiplication in that basis.

Shapes: N prompts, M grid points.
"""

from __future__ import annotations

import numpy as np

LOGITS = 9.9  # rates from 5e-5 to 1 − 5e-5: "never" has to be told from "one in a thousand"
SPACING = 0.3


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, dtype=np.float64)))


class LogitGrid:
    """M = 67 equally spaced logits; ``spread`` walks along them, ``likelihood`` weighs them.

    ``noise`` is the chance that a verdict is wrong: observed success rates lie in [noise, 1 − noise], so
    that one wrong verdict cannot contradict a belief beyond repair.
    """

    def __init__(self, noise: float) -> None:
        self.noise = noise
        if not 0 <= noise < 0.5:
            raise ValueError(f"noise must lie in [0, 0.5), found {noise}")
        self.points_M = np.arange(-LOGITS, LOGITS + SPACING / 2, SPACING)
        modes_M = np.arange(len(self.points_M))
        # Orthonormal DCT-II basis: eigenvectors of the walk with reflecting ends.
        basis_MM = np.cos(np.pi * (modes_M[:, None] + 0.5) * modes_M / len(modes_M))
        self.basis_MM = basis_MM / np.linalg.norm(basis_MM, axis=0)
        # A walk of variance 1 per unit of time jumps to either side at the rate 1 / (2 · spacing²).
        self.eigenvalues_M = -(1.0 - np.cos(np.pi * modes_M / len(modes_M))) / SPACING**2

    def __len__(self) -> int:
        return len(self.points_M)

    def rates(self, shift: float = 0.0) -> np.ndarray:
        """Success rates (M,) to observe at the grid points moved by ``shift`` logits."""
        return self.rate_at(self.points_M + shift)

    def rate_at(self, logits: np.ndarray) -> np.ndarray:
        """Success rates to observe at these logits."""
        return self.noise + (1.0 - 2.0 * self.noise) * sigmoid(logits)

    def decay(self, variance: np.ndarray) -> np.ndarray:
        """What walks of the given ``variance`` (...,) (squared logits) leave of each mode: (..., M)."""
        return np.exp(np.asarray(variance, dtype=np.float64)[..., None] * self.eigenvalues_M)

    def spread(self, beliefs_NM: np.ndarray, decay_NM: np.ndarray) -> np.ndarray:
        """Beliefs (N, M) after walks with these ``decay`` factors, (N, M) or (M,)."""
        spread_NM = ((beliefs_NM @ self.basis_MM) * decay_NM) @ self.basis_MM.T
        return np.maximum(spread_NM, 0.0)  # rounding

    def likelihood(self, successes_N: np.ndarray, trials_N: np.ndarray, shift: float = 0.0) -> np.ndarray:
        """Probability (N, M) of these verdicts, in order, at every grid point; scaled to a maximum of 1."""
        rate_M = self.rates(shift)
        log_NM = np.outer(successes_N, np.log(rate_M)) + np.outer(trials_N - successes_N, np.log1p(-rate_M))
        return np.exp(log_NM - log_NM.max(axis=1, keepdims=True))

    def draw(self, beliefs_NM: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A logit from each belief, (N,): a grid point by weight, then anywhere in its cell."""
        cumulated_NM = np.cumsum(beliefs_NM, axis=1)
        threshold_N = rng.random(len(beliefs_NM)) * cumulated_NM[:, -1]
        point_N = np.minimum((cumulated_NM <= threshold_N[:, None]).sum(axis=1), len(self) - 1)
        return self.points_M[point_N] + (rng.random(len(beliefs_NM)) - 0.5) * SPACING


def normalised(weights_NM: np.ndarray) -> np.ndarray:
    return weights_NM / weights_NM.sum(axis=-1, keepdims=True)
