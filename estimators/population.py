"""How easy the prompts of a pool are before anyone has tried them: a histogram learned from first visits.

Nonparametric empirical Bayes. The histogram is fitted by EM so that it explains counts of first visits,
each seen through its binomial noise. Selection makes this a biased sample: prompts whose tilt (what is
known of them beforehand) promises signal are visited sooner. With prior_i(z) ∝ population(z) · tilt_i(z)
the maximum-likelihood histogram under such biased sampling is Vardi's (Annals of Statistics 13, 1985):

    population(z) ∝ Σ_i responsibility_i(z) / Σ_i tilt_i(z) / Z_i          Z_i = Σ_z population(z) · tilt_i(z)

Without tilts the denominator is constant and this is ordinary EM.

Shapes: N first visits, M grid points.
"""

from __future__ import annotations

import numpy as np

from estimators.base import State
from estimators.logit_grid import normalised

SCHEMA_VERSION = 1
EM_ROUNDS = 20


class Population:
    """``base`` (M,) is the histogram before any visit, worth ``weight`` visits; ``memory`` in visits."""

    def __init__(self, base_M: np.ndarray, weight: float, memory: float) -> None:
        if not (weight > 0 and memory > 0):
            raise ValueError(f"weight and memory must be positive, found {weight} and {memory}")
        self.base_M = weight * normalised(base_M)
        self.weight = weight
        self.memory = memory
        self.visits_M = np.zeros_like(self.base_M)  # Σ responsibilities
        self.exposure_M = np.zeros_like(self.base_M)  # Σ tilt / Z: how much each point was sampled
        self.histogram_M = normalised(self.base_M)

    def observe(self, likelihood_NM: np.ndarray, tilt_NM: np.ndarray) -> None:
        """Learn from N first visits; both (N, M), each row up to a factor."""
        faded = np.exp(-len(likelihood_NM) / self.memory)
        visits_M, exposure_M = self.visits_M * faded, self.exposure_M * faded
        histogram_M = self.histogram_M
        for _ in range(EM_ROUNDS):
            prior_NM = histogram_M * tilt_NM
            total_N1 = prior_NM.sum(axis=1, keepdims=True)
            responsibility_M = normalised(prior_NM * likelihood_NM).sum(axis=0)
            sampled_M = (tilt_NM / total_N1).sum(axis=0)
            histogram_M = normalised(
                (self.base_M + visits_M + responsibility_M) / (self.weight + exposure_M + sampled_M)
            )
        self.visits_M, self.exposure_M = visits_M + responsibility_M, exposure_M + sampled_M
        self.histogram_M = histogram_M

    def state_dict(self) -> State:
        return State(
            SCHEMA_VERSION,
            arrays={
                "visits": self.visits_M.copy(),
                "exposure": self.exposure_M.copy(),
                "histogram": self.histogram_M.copy(),
            },
        )

    def load_state_dict(self, state: State) -> None:
        self.visits_M = np.array(state.arrays["visits"], dtype=np.float64)
        self.exposure_M = np.array(state.arrays["exposure"], dtype=np.float64)
        self.histogram_M = np.array(state.arrays["histogram"], dtype=np.float64)
