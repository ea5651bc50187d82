"""What the policy itself expects of a prompt, as evidence about the outcome of a group.

A prefill of the prompt by today's policy (its perplexity, the entropy of the first token to come,
the last hidden state) is out of date for no prompt, whenever that was visited last. A logistic
regression on the latest groups predicts from it how likely each outcome of a group is (`outcomes`:
from all wrong to all right). What was believed before is among its inputs, as log-odds, so that it says what
is known in all, not what the view adds: nothing is counted twice.

A belief over states z takes this in by Jeffrey's rule (*The Logic of Decision*, ch. 11): with c the
outcome, P(c | z) binomial, b_c what the belief gives to c and v_c the view's answer,

    belief(z) ← belief(z) · Σ_c P(c | z) · (v_c / b_c)^w

moves the outcome's probabilities from b towards v and leaves alone what is believed given the
outcome. How far to go, w, is inferred (`Contest`).

Shapes: N prompts, F features, M states, C outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estimators.base import Candidate, Observation, State
from estimators.contest import Contest
from estimators.nested_state import joined, part
from estimators.online_logistic import OnlineLogistic
from estimators.outcomes import OUTCOMES

SCHEMA_VERSION = 2
TRUST = (0.0, 0.25, 0.5, 0.75, 1.0)
PENALTY = 1.0
LEAST = 0.01  # no outcome is ruled out by a regression
LEAST_BELIEF = 1e-4  # as its input


class PolicyView:
    """``memory``: groups over which it learns."""

    def __init__(self, memory: float) -> None:
        self.regression = OnlineLogistic(OUTCOMES, penalty=PENALTY, memory=round(memory))
        self.trust = Contest(TRUST, memory)

    def updated(self, belief_NM: np.ndarray, outcome_MC: np.ndarray, features_NF: np.ndarray) -> np.ndarray:
        """Beliefs (N, M) with the view taken in; ``outcome_MC`` is P(c | z). The same as before while nothing
        has been learned.

        Raises ValueError for another number of features than those learned from.
        """
        if not self.regression.rows:
            return belief_NM
        factor_NC = self._factors(belief_NM @ outcome_MC, features_NF)
        return self._moved(belief_NM, outcome_MC, factor_NC, self.trust.mean)

    def observe(
        self,
        belief_NM: np.ndarray,
        outcome_MC: np.ndarray,
        features_NF: np.ndarray,
        likelihood_NM: np.ndarray,
        outcome_N: np.ndarray,
    ) -> None:
        """Learn from N groups: what was believed before the view, the view, the likelihood of the counts in
        each state, and the outcome, in 0 … C − 1."""
        before_NC = belief_NM @ outcome_MC
        if self.regression.rows:
            factor_NC = self._factors(before_NC, features_NF)
            moved = [self._moved(belief_NM, outcome_MC, factor_NC, trust) for trust in self.trust.values_S]
            self.trust.score(np.column_stack([(m_NM * likelihood_NM).sum(axis=1) for m_NM in moved]))
        self.regression.fit(self._inputs(before_NC, features_NF), outcome_N)

    def _factors(self, before_NC: np.ndarray, features_NF: np.ndarray) -> np.ndarray:
        """v_c / b_c, (N, C)."""
        told_NC = self.regression.predict(self._inputs(before_NC, features_NF)).clip(LEAST, 1.0)
        told_NC /= told_NC.sum(axis=1, keepdims=True)
        return told_NC / before_NC.clip(LEAST, 1.0)

    @staticmethod
    def _inputs(before_NC: np.ndarray, features_NF: np.ndarray) -> np.ndarray:
        """Log-odds of all other outcomes against all wrong, and the features: (N, C − 1 + F)."""
        log_NC = np.log(before_NC.clip(LEAST_BELIEF, 1.0))
        return np.column_stack([log_NC[:, 1:] - log_NC[:, :1], features_NF])

    @staticmethod
    def _moved(
        belief_NM: np.ndarray, outcome_MC: np.ndarray, factor_NC: np.ndarray, trust: float
    ) -> np.ndarray:
        moved_NM = belief_NM * (factor_NC**trust @ outcome_MC.T)
        return moved_NM / moved_NM.sum(axis=1, keepdims=True)

    def state_dict(self) -> State:
        parts = {"regression": self.regression.state_dict(), "trust": self.trust.state_dict()}
        return joined(State(SCHEMA_VERSION), parts)

    def load_state_dict(self, state: State) -> None:
        self.regression.load_state_dict(part(state, "regression"))
        self.trust.load_state_dict(part(state, "trust"))


def features_of(prompts: Sequence[Candidate | Observation]) -> tuple[np.ndarray, np.ndarray]:
    """Which prompts bring features, (N,) bool, and theirs, (n, F). Raises ValueError when lengths differ."""
    brought = [prompt.features for prompt in prompts if prompt.features is not None]
    widths = sorted({len(features) for features in brought})
    if len(widths) > 1:
        raise ValueError(f"all prompts must have the same number of features, found {widths}")
    has_N = np.array([prompt.features is not None for prompt in prompts], dtype=bool)
    return has_N, np.array(brought, dtype=np.float64).reshape(len(brought), widths[0] if widths else 0)
