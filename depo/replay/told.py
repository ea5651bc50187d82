"""Pass rates from the whole trace, later visits included: the reference line and the oracle see the future.

N: prompts, T: steps, V: visits of one prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from depo.replay.trace import Trace
from estimators.base import Candidate, Context, Estimates, Estimator, Observation

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


class Told:
    """Passes everything on, with each candidate's ``prior`` replaced by its pass rate at step ``column``.

    That rate is the recorded one of a count file, else the smoother's, which leaves out the visit itself but
    sees the later ones. It replays; it has no state to save.
    """

    def __init__(self, estimator: Estimator, trace: Trace) -> None:
        self.estimator = estimator
        self.column = 0
        self._rate_NT = true_rates(trace)
        self._row = {prompt.key: row for row, prompt in enumerate(trace.prompts)}

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
        rates = self._rate_NT[[self._row[candidate.key] for candidate in candidates], self.column]
        told = [
            replace(candidate, prior=None if np.isnan(rate) else float(rate))
            for candidate, rate in zip(candidates, rates, strict=True)
        ]
        return self.estimator.predict(told, context)

    def observe(self, observations: Sequence[Observation], context: Context) -> dict[str, float]:
        return self.estimator.observe(observations, context)


def true_rates(trace: Trace) -> np.ndarray:
    """(N, T) in [0, 1]; NaN where nothing is known."""
    if trace.rate_N is not None:
        return np.repeat(trace.rate_N[:, None], trace.trials_NT.shape[1], axis=1)
    return np.clip(smoothed_rates(trace.successes_NT, trace.trials_NT), 0.0, 1.0)
