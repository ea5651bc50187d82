"""No estimate: every prompt looks alike (GRPO, DAPO). The belief is Beta(1, 1), whatever is observed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estimators.base import Candidate, Context, Estimates, Observation, State, tally
from estimators.moments import beta_estimates

SCHEMA_VERSION = 1


class UniformEstimator:
    """Believes that any pass rate is equally likely for any prompt: mean 1/2, p_informative = (G−1)/(G+1)."""

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
        ones_N = np.ones(len(candidates))
        return beta_estimates(ones_N, ones_N, context.group_size)

    def observe(self, observations: Sequence[Observation], context: Context) -> dict[str, float]:
        tally(observations)  # wrong counts are an error under every estimator
        return {}

    def state_dict(self) -> State:
        return State(schema_version=SCHEMA_VERSION)

    def load_state_dict(self, state: State) -> None:
        if state.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"uniform estimator: state has schema_version {state.schema_version}, "
                f"expected {SCHEMA_VERSION}"
            )
