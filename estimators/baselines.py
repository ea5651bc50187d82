"""The two ends between which estimators lie: one that knows nothing, and one that knows the pass rate.

Neither learns. N: candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depo.estimators.base import Candidate, Context, Estimates, Observation, State, tally
from depo.estimators.moments import beta_estimates, informative_probability

SCHEMA_VERSION = 1


class Fixed:
    """Believes the same whatever is observed. ``name`` stands in messages."""

    name: str

    def observe(self, observations: Sequence[Observation], context: Context) -> dict[str, float]:
        tally(observations)  # wrong counts are an error under every estimator
        return {}

    def state_dict(self) -> State:
        return State(schema_version=SCHEMA_VERSION)

    def load_state_dict(self, state: State) -> None:
        state.require_version(SCHEMA_VERSION, f"{self.name} estimator")


class UniformEstimator(Fixed):
    """No estimate: every prompt looks alike (GRPO, DAPO). The belief is Beta(1, 1): any pass rate is equally
    likely, mean 1/2, p_informative = (G−1)/(G+1)."""

    name = "uniform"

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
        ones_N = np.ones(len(candidates))
        return beta_estimates(ones_N, ones_N, context.group_size)


class OracleEstimator(Fixed):
    """Takes for the true success probability p what it is told: the upper bound of what any estimator could
    do for a selector. Benchmarks only.

    ``live``: told by ``Candidate.features``, (1,), of the policy as it is now; else by ``Candidate.prior``.
    ``samples``: how often whoever tells it asks the policy; 0: the answer's exact probability.
    """

    name = "oracle"

    def __init__(self, live: bool = False, samples: int = 0) -> None:
        self.live = live
        self.samples = samples

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
        """p itself, without spread. Raises ValueError for a candidate of whom no pass rate was told."""
        p_N = np.array([self._told(candidate) for candidate in candidates], dtype=np.float64)
        return Estimates(
            mean=p_N,
            sd=np.zeros_like(p_N),
            p_informative=informative_probability(p_N, context.group_size),
            p_all_wrong=(1 - p_N) ** context.group_size,
            p_all_right=p_N**context.group_size,
            sample=lambda rng: p_N.copy(),
        )

    def _told(self, candidate: Candidate) -> float:
        if self.live:
            told = None if candidate.features is None else float(candidate.features[0])
        else:
            told = candidate.prior
        if told is None or not 0 <= told <= 1:
            source = "policy" if self.live else "prompt's prior"
            raise ValueError(
                f"prompt {candidate.key}: the oracle estimator takes the true pass rate from the {source}, "
                f"which must lie in [0, 1], found {told}"
            )
        return told
