"""How easy the prompts of a pool are before anyone has tried them: a histogram learned from first visits.

Nonparametric empirical Bayes. The histogram is fitted by EM so that it explains the counts of recent first
visits, each seen through its binomial noise. Selection makes these a biased sample: prompts whose tilt (what
is known of them beforehand) promises signal are visited sooner. With prior_i ∝ population · tilt_i the
maximum-likelihood histogram under such biased sampling is Vardi's (Annals of Statistics 13, 1985):

    population(z) ∝ Σ_i responsibility_i(z) / Σ_i tilt_i(z) / Z_i          Z_i = Σ_z population(z) · tilt_i(z)

Without tilts the denominator is constant and this is ordinary EM.

Shapes: N first visits, W of them remembered, M states.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estimators.base import State
from estimators.logit_grid import LogitGrid, normalised

SCHEMA_VERSION = 1


EM_ROUNDS = 20


class Population:
    """``base_M`` (M,) is the histogram before any visit, worth ``weight`` visits; the newest ``window`` first
    visits count."""

    def __init__(self, base_M: np.ndarray, weight: float, window: int) -> None:
        if not (weight > 0 and window > 0):
            raise ValueError(f"weight and window must be positive, found {weight} and {window}")
        self.base_M = weight * normalised(base_M)
        self.weight = weight
        self.window = window
        self.keys: list[str] = []
        self._likelihood_WM = np.zeros((0, len(base_M)), dtype=np.float32)
        self._tilt_WM = np.zeros((0, len(base_M)), dtype=np.float32)
        self.histogram_M = normalised(self.base_M)

    def observe(self, keys: Sequence[str], likelihood_NM: np.ndarray, tilt_NM: np.ndarray) -> None:
        """Learn from N first visits; both arrays (N, M), each row up to a factor."""
        self.keys = [*self.keys, *keys][-self.window :]
        self._likelihood_WM = np.concatenate([self._likelihood_WM, likelihood_NM], dtype=np.float32)
        self._tilt_WM = np.concatenate([self._tilt_WM, tilt_NM], dtype=np.float32)
        self._likelihood_WM = self._likelihood_WM[-self.window :]
        self._tilt_WM = self._tilt_WM[-self.window :]
        likelihood_WM, tilt_WM = self._likelihood_WM, self._tilt_WM
        for _ in range(EM_ROUNDS):
            prior_WM = self.histogram_M * tilt_WM
            responsibility_M = normalised(prior_WM * likelihood_WM).sum(axis=0)
            sampled_M = (tilt_WM / prior_WM.sum(axis=1, keepdims=True)).sum(axis=0)
            self.histogram_M = normalised((self.base_M + responsibility_M) / (self.weight + sampled_M))

    def recentre(self, grid: LogitGrid, points: int) -> None:
        """Place every prompt ``points`` grid points further up."""
        self.histogram_M = grid.moved(self.histogram_M[None], points)[0]
        self._likelihood_WM = grid.seen_from(self._likelihood_WM, points)
        self._tilt_WM = grid.seen_from(self._tilt_WM, points)

    def posteriors(self) -> np.ndarray:
        """What is believed about the remembered prompts after their first visit, in the light of today's
        histogram: (W, M), in the order of ``keys``."""
        return normalised(self.histogram_M * self._tilt_WM * self._likelihood_WM)

    def state_dict(self) -> State:
        return State(
            SCHEMA_VERSION,
            values={"keys": list(self.keys)},
            arrays={
                "likelihood": self._likelihood_WM.copy(),
                "tilt": self._tilt_WM.copy(),
                "histogram": self.histogram_M.copy(),
            },
        )

    def load_state_dict(self, state: State) -> None:
        keys = state.values["keys"]
        assert isinstance(keys, list)
        self.keys = list(keys)
        self._likelihood_WM = np.array(state.arrays["likelihood"], dtype=np.float32)
        self._tilt_WM = np.array(state.arrays["tilt"], dtype=np.float32)
        self.histogram_M = np.array(state.arrays["histogram"], dtype=np.float64)
