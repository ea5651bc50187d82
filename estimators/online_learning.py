"""What is learned online and forgets slowly: a linear regression, and which of a few settings predicts best.

Shapes: N rows or outcomes, F features, K = F + 2 columns (1, features, target), S settings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estimators.base import State

CONSTANT = 1e-6
"""Relative spread up to which a feature counts as constant. A variance that is the difference of two moments
leaves 1e-8 of one that is, by rounding."""


class OnlineRidge:
    """Ridge regression with exponential forgetting: ``penalty`` in rows, ``memory`` in rows.

    Features are centred and scaled by their own running moments, so that one penalty suits all of them, a
    perplexity as well as a thousand hidden units. Everything is kept as weighted sums over past rows: the
    order of rows within a call does not matter, and there is no learning rate. The number of features is that
    of the first rows fitted. Until then every prediction is ``start``.
    """

    def __init__(self, penalty: float = 10.0, memory: float = 5000.0, start: float = 0.5) -> None:
        if not (penalty > 0 and memory > 0):
            raise ValueError(f"penalty and memory must be positive, found {penalty} and {memory}")
        self.penalty = penalty
        self.memory = memory
        self.start = start
        # Weighted sums over rows [1, features, target] of their outer products: all that regression needs.
        self.moments_KK = np.zeros((0, 0))
        self._solution: tuple[np.ndarray, np.ndarray, float] | None = None

    @property
    def rows(self) -> float:
        """Rows remembered, by weight."""
        return float(self.moments_KK[0, 0]) if len(self.moments_KK) else 0.0

    @property
    def mean(self) -> float:
        """Weighted mean target: what a row with average features is predicted."""
        return float(self.moments_KK[0, -1] / self.rows) if self.rows else self.start

    def fit(self, features_NF: np.ndarray, target_N: np.ndarray) -> None:
        """Add rows; those with a missing feature (NaN) are left out.

        Raises ValueError for infinite features or targets, and for another number of features.
        """
        complete_N = ~np.isnan(features_NF).any(axis=1)
        features_NF, target_N = features_NF[complete_N], target_N[complete_N]
        if not len(target_N):
            return
        rows_NK = np.column_stack([np.ones(len(target_N)), features_NF, target_N]).astype(np.float64)
        if not np.isfinite(rows_NK).all():
            raise ValueError("features and targets must be finite")
        if not len(self.moments_KK):
            self.moments_KK = np.zeros((rows_NK.shape[1], rows_NK.shape[1]))
        self._require_width(rows_NK.shape[1] - 2)
        self.moments_KK = self.moments_KK * np.exp(-len(rows_NK) / self.memory) + rows_NK.T @ rows_NK
        self._solution = None

    def predict(self, features_NF: np.ndarray) -> np.ndarray:
        """(N,) predictions, clipped to [0, 1]; a missing feature (NaN) counts as an average one.

        Raises ValueError for another number of features.
        """
        if not self.rows:
            return np.full(len(features_NF), self.start)
        self._require_width(features_NF.shape[1])
        center_F, weights_F, mean = self.solve()
        deviation_NF = np.where(np.isnan(features_NF), 0.0, features_NF - center_F)
        return np.clip(mean + deviation_NF @ weights_F, 0.0, 1.0)

    def set_moments(self, moments_KK: np.ndarray) -> None:
        """Take up where a saved regression left off."""
        self.moments_KK = moments_KK
        self._solution = None

    def solve(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Centre, weights and mean; kept until the next rows. Time grows as F³, to a second for F = 2,000:
        better spent as soon as there are new rows than when somebody waits for a prediction."""
        if self._solution is None:
            moments_KK = self.moments_KK / self.rows
            center_F, mean = moments_KK[0, 1:-1], float(moments_KK[0, -1])
            covariance_FF = moments_KK[1:-1, 1:-1] - np.outer(center_F, center_F)
            with_target_F = moments_KK[1:-1, -1] - center_F * mean
            scale_F = np.sqrt(np.maximum(np.diag(covariance_FF), 0.0))
            scale_F[scale_F <= CONSTANT * (1.0 + np.abs(center_F))] = np.inf  # constant so far: no weight
            correlation_FF = covariance_FF / np.outer(scale_F, scale_F)
            penalty_FF = self.penalty / self.rows * np.eye(len(scale_F))
            weights_F = np.linalg.solve(correlation_FF + penalty_FF, with_target_F / scale_F) / scale_F
            self._solution = (center_F, weights_F, mean)
        return self._solution

    def _require_width(self, features: int) -> None:
        if features != len(self.moments_KK) - 2:
            raise ValueError(f"expected {len(self.moments_KK) - 2} features, found {features}")


class ModelAverage:
    """Bayesian model averaging over S ``values`` of a setting that has no right one for every run.

    Each is scored by the probability it gave to what then happened; ``weights`` is their posterior.
    ``memory``: how many outcomes count (exponential decay), so that the answer may change during a run.
    """

    def __init__(self, values: Sequence[float], memory: float) -> None:
        if not memory > 0:
            raise ValueError(f"memory must be positive, found {memory}")
        self.values_S = np.asarray(values, dtype=np.float64)
        self.memory = memory
        self.scores_S = np.zeros(len(self.values_S))

    @property
    def weights(self) -> np.ndarray:
        """(S,), adding up to 1; equal before the first outcome."""
        weights_S = np.exp(self.scores_S - self.scores_S.max())
        return weights_S / weights_S.sum()

    @property
    def mean(self) -> float:
        return float(self.weights @ self.values_S)

    def score(self, probabilities_NS: np.ndarray) -> None:
        """Probability (N, S) that each value gave to each of N outcomes, up to a factor per outcome."""
        self.scores_S = self.scores_S * np.exp(-len(probabilities_NS) / self.memory)
        self.scores_S += np.log(np.maximum(probabilities_NS, np.finfo(float).tiny)).sum(axis=0)

    def state_dict(self) -> State:
        return State(1, arrays={"scores": self.scores_S.copy()})

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError when the state has scores for another number of values."""
        scores_S = np.array(state.arrays["scores"], dtype=np.float64)
        if scores_S.shape != self.values_S.shape:
            raise ValueError(f"expected {len(self.values_S)} scores, found {scores_S.shape}")
        self.scores_S = scores_S
