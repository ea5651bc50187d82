"""What the policy itself expects of a prompt, as evidence about the outcome of a group.

A prefill of the prompt by today's policy (its perplexity, the entropy of the first token to come,
the last hidden state) is out of date for no prompt, whenever that was visited last. Two regressions
with slow forgetting predict from it how likely a group is to come out informative and all right. What was
believed before is one of their inputs, so that they say what is known in all, not what the probe
adds: nothing is counted twice.

A belief over states z takes this in by Jeffrey's rule (*The Logic of Decision*, ch. 11): with c the
outcome of a group (all wrong, informative, all right), P(c | z) binomial, b_c what the belief gives to c
and v_c the probe's answer,

    belief(z) ← belief(z) · Σ_c P(c | z) · (v_c / b_c)^w

moves the outcome's probabilities from b towards v and leaves alone what is believed given the
outcome. How far to go, w, is inferred (`ModelAverage`).

Shapes: N prompts, F features, M states, 3 outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estimators.base import Candidate, Observation, State, joined, part
from estimators.model_average import ModelAverage
from estimators.online_ridge import OnlineRidge

SCHEMA_VERSION = 1


TRUST = (0.0, 0.25, 0.5, 0.75, 1.0)


RIDGE_PENALTY = 20.0  # rows of an average prompt


LEAST = 0.01  # no outcome is ruled out by a linear regression


class PrefillProbe:
    """``memory``: groups over which it learns."""

    def __init__(self, memory: float) -> None:
        self.informative = OnlineRidge(RIDGE_PENALTY, memory)
        self.right = OnlineRidge(RIDGE_PENALTY, memory)
        self.trust = ModelAverage(TRUST, memory)

    def updated(self, belief_NM: np.ndarray, outcome_M3: np.ndarray, features_NF: np.ndarray) -> np.ndarray:
        """Beliefs (N, M) with the probe taken in; ``outcome_M3`` is P(c | z). The same as before while
        nothing has been learned.

        Raises ValueError for another number of features than those learned from.
        """
        if not self.informative.rows:
            return belief_NM
        factor_N3 = self._factors(belief_NM @ outcome_M3, features_NF)
        return self._moved(belief_NM, outcome_M3, factor_N3, self.trust.mean)

    def observe(
        self,
        belief_NM: np.ndarray,
        outcome_M3: np.ndarray,
        features_NF: np.ndarray,
        likelihood_NM: np.ndarray,
        outcome_N: np.ndarray,
    ) -> None:
        """Learn from N groups: what was believed before the probe, the probe, the likelihood of the counts in
        each state, and the outcome (0: all wrong, 1: informative, 2: all right)."""
        before_N3 = belief_NM @ outcome_M3
        if self.informative.rows:
            factor_N3 = self._factors(before_N3, features_NF)
            moved = [self._moved(belief_NM, outcome_M3, factor_N3, trust) for trust in self.trust.values_S]
            self.trust.score(np.column_stack([(m_NM * likelihood_NM).sum(axis=1) for m_NM in moved]))
        inputs_NK = np.column_stack([before_N3[:, 1:], features_NF])
        self.informative.fit(inputs_NK, (outcome_N == 1).astype(np.float64))
        self.right.fit(inputs_NK, (outcome_N == 2).astype(np.float64))
        # Solved now, while the learner is busy: predictions are waited for.
        for regression in (self.informative, self.right):
            if regression.rows:
                regression.solve()

    def _factors(self, before_N3: np.ndarray, features_NF: np.ndarray) -> np.ndarray:
        """v_c / b_c, (N, 3)."""
        inputs_NK = np.column_stack([before_N3[:, 1:], features_NF])
        informative_N, right_N = self.informative.predict(inputs_NK), self.right.predict(inputs_NK)
        told_N3 = np.column_stack([1.0 - informative_N - right_N, informative_N, right_N]).clip(LEAST, 1.0)
        told_N3 /= told_N3.sum(axis=1, keepdims=True)
        return told_N3 / before_N3.clip(LEAST, 1.0)

    @staticmethod
    def _moved(
        belief_NM: np.ndarray, outcome_M3: np.ndarray, factor_N3: np.ndarray, trust: float
    ) -> np.ndarray:
        moved_NM = belief_NM * (factor_N3**trust @ outcome_M3.T)
        return moved_NM / moved_NM.sum(axis=1, keepdims=True)

    def state_dict(self) -> State:
        arrays = {"mixed": self.informative.moments_KK.copy(), "right": self.right.moments_KK.copy()}
        return joined(State(SCHEMA_VERSION, arrays=arrays), {"trust": self.trust.state_dict()})

    def load_state_dict(self, state: State) -> None:
        self.informative.set_moments(np.array(state.arrays["mixed"], dtype=np.float64))
        self.right.set_moments(np.array(state.arrays["right"], dtype=np.float64))
        self.trust.load_state_dict(part(state, "trust"))


def features_of(prompts: Sequence[Candidate | Observation]) -> tuple[np.ndarray, np.ndarray]:
    """Which prompts bring features, (N,) bool, and theirs, (n, F). Raises ValueError when lengths differ."""
    brought = [prompt.features for prompt in prompts if prompt.features is not None]
    widths = sorted({len(features) for features in brought})
    if len(widths) > 1:
        raise ValueError(f"all prompts must have the same number of features, found {widths}")
    has_N = np.array([prompt.features is not None for prompt in prompts], dtype=bool)
    return has_N, np.array(brought, dtype=np.float64).reshape(len(brought), widths[0] if widths else 0)
