"""For the oracle: an estimator that is told the pass rates.

N: prompts, T: steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from depo.replay.smoother import smoothed_rates
from depo.replay.trace import Trace
from estimators.base import Candidate, Context, Estimates, Estimator, Observation


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
