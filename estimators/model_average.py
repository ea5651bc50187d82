"""Which of a few settings predicts best: Bayesian model averaging that forgets.

A setting with no right value for every run (how fast pass rates wander, how much a prior is worth) is not
chosen but averaged over. Each of S values is scored by the probability it gave to what then happened; older
scores fade, so that the answer may change during a run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estimators.base import State

SCHEMA_VERSION = 1


class ModelAverage:
    """S values and their posterior ``weights``; ``memory``: how many outcomes count (exponential decay)."""

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
        return State(SCHEMA_VERSION, arrays={"scores": self.scores_S.copy()})

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError when the state has scores for another number of values."""
        scores_S = np.array(state.arrays["scores"], dtype=np.float64)
        if scores_S.shape != self.values_S.shape:
            raise ValueError(f"expected {len(self.values_S)} scores, found {scores_S.shape}")
        self.scores_S = scores_S
