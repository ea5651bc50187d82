"""Logistic regression on what became of the latest groups: multinomial, with a ridge penalty, fitted anew
after each batch from where the last fit ended.

Probabilities of rare outcomes stay right far from what was seen most: between *never* and *sometimes* lie
orders of magnitude, which a linear regression on 0 and 1 cannot tell apart. Features are centred and scaled
by their own moments, so that one penalty suits all of them.

Shapes: N new rows, W remembered rows, F features, K = 1 + F weights (the first is the intercept), C classes.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from estimators.base import State

SCHEMA_VERSION = 1
ITERATIONS = 50  # of L-BFGS a fit; the next one goes on from there
INTERCEPT_PENALTY = 1e-3  # just enough to make the minimum unique


class OnlineLogistic:
    """``penalty``: 1 / variance of the weights' Gaussian prior, in units of scaled features. The newest
    ``memory`` rows count. Until the first fit all classes are equally likely."""

    def __init__(self, classes: int, penalty: float, memory: int) -> None:
        if not (classes >= 2 and penalty > 0 and memory > 0):
            raise ValueError(
                f"needs two classes, a positive penalty and memory, found {classes}, {penalty} and {memory}"
            )
        self.classes = classes
        self.penalty = penalty
        self.memory = memory
        self._features_WF = np.zeros((0, 0), dtype=np.float32)
        self._class_W = np.zeros(0, dtype=np.int64)
        self._weights_KC = np.zeros((0, classes))  # of features as they come

    @property
    def rows(self) -> int:
        """Rows remembered."""
        return len(self._class_W)

    def fit(self, features_NF: np.ndarray, class_N: np.ndarray) -> None:
        """Learn from N rows. Raises ValueError for features that are not finite or another number of them,
        and for classes that do not exist."""
        if not len(class_N):
            return
        features_NF = np.asarray(features_NF, dtype=np.float32)
        if not np.isfinite(features_NF).all():
            raise ValueError("features must be finite")
        if not ((class_N >= 0) & (class_N < self.classes)).all():
            raise ValueError(f"classes must lie in 0 … {self.classes - 1}, found {sorted(set(class_N))}")
        if not self.rows:
            self._features_WF = np.zeros((0, features_NF.shape[1]), dtype=np.float32)
            self._weights_KC = np.zeros((1 + features_NF.shape[1], self.classes))
        self._require_width(features_NF)
        self._features_WF = np.concatenate([self._features_WF, features_NF])[-self.memory :]
        self._class_W = np.concatenate([self._class_W, class_N])[-self.memory :]
        self._weights_KC = self._fitted()

    def predict(self, features_NF: np.ndarray) -> np.ndarray:
        """(N, C) probabilities. Raises ValueError for another number of features than those fitted."""
        if not self.rows:
            return np.full((len(features_NF), self.classes), 1.0 / self.classes)
        self._require_width(features_NF)
        return softmax(self._weights_KC[0] + features_NF @ self._weights_KC[1:], axis=1)

    def _fitted(self) -> np.ndarray:
        """Weights (K, C) of the least penalised log-loss."""
        features_WF = self._features_WF.astype(np.float64)
        center_F, scale_F = features_WF.mean(axis=0), features_WF.std(axis=0)
        scale_F[scale_F <= 1e-9 * (1.0 + np.abs(center_F))] = np.inf  # constant so far: no weight
        rows_WK = np.column_stack([np.ones(self.rows), (features_WF - center_F) / scale_F])
        actual_WC = np.eye(self.classes)[self._class_W]
        penalty_K1 = np.full((rows_WK.shape[1], 1), self.penalty)
        penalty_K1[0] = INTERCEPT_PENALTY

        def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weights_KC = flat.reshape(-1, self.classes)
            logit_WC = rows_WK @ weights_KC
            loss = float((logsumexp(logit_WC, axis=1) - (actual_WC * logit_WC).sum(axis=1)).sum())
            loss += 0.5 * float((penalty_K1 * weights_KC**2).sum())
            gradient_KC = rows_WK.T @ (softmax(logit_WC, axis=1) - actual_WC) + penalty_K1 * weights_KC
            return loss, gradient_KC.ravel()

        start_KC = np.zeros_like(self._weights_KC)
        finite_F = np.isfinite(scale_F)
        start_KC[1:][finite_F] = self._weights_KC[1:][finite_F] * scale_F[finite_F, None]
        start_KC[0] = self._weights_KC[0] + center_F @ self._weights_KC[1:]
        found = minimize(
            loss_and_gradient, start_KC.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS}
        )
        weights_KC = found.x.reshape(-1, self.classes)
        weights_KC[1:] /= scale_F[:, None]
        weights_KC[0] -= center_F @ weights_KC[1:]
        return weights_KC

    def _require_width(self, features_NF: np.ndarray) -> None:
        if features_NF.shape[1] != self._features_WF.shape[1]:
            raise ValueError(f"expected {self._features_WF.shape[1]} features, found {features_NF.shape[1]}")

    def state_dict(self) -> State:
        arrays: dict[str, np.ndarray] = {
            "features": self._features_WF.copy(),
            "class": self._class_W.copy(),
            "weights": self._weights_KC.copy(),
        }
        return State(SCHEMA_VERSION, arrays=arrays)

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError when the arrays do not fit together."""
        features_WF = np.array(state.arrays["features"], dtype=np.float32)
        class_W = np.array(state.arrays["class"], dtype=np.int64)
        weights_KC = np.array(state.arrays["weights"], dtype=np.float64)
        columns = 1 + features_WF.shape[1] if len(class_W) else 0
        if len(features_WF) != len(class_W) or weights_KC.shape != (columns, self.classes):
            raise ValueError(
                f"state has features {features_WF.shape}, classes {class_W.shape} and weights "
                f"{weights_KC.shape}, which do not fit together"
            )
        self._features_WF, self._class_W, self._weights_KC = features_WF, class_W, weights_KC
