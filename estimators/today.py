"""What today's policy shows of a prompt, and how far a history still holds beside it.

A policy can be asked what one prefill of a prompt tells (`PrefillProbe`), and how likely it finds the
answers it gave before (`KnownAnswers`: answer rescoring). A history cannot: its outcomes are another
policy's, and what they say today is only as good as the model of how pass rates move, which foresees no
sudden understanding. So where the policy has been asked, a history counts with the power w that has predicted
best together with the policy's replies (`ModelAverage`): a power prior (Ibrahim and Chen, Statistical Science
15, 2000).

    belief ∝ stranger^(1 − w) · history^w

with ``history`` what the prompt's outcomes make of it and ``stranger`` what would be believed without them.
Where the policy has not been asked, the history stands as it is.

Shapes: N prompts, K of them visited before and asked about, F features, M states, 3 outcomes (all wrong,
informative, all right).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from estimators.base import Candidate, Observation, State, joined, part
from estimators.known_answers import LEAST, KnownAnswers, rescored_of
from estimators.logit_grid import LogitGrid, normalised
from estimators.online_learning import ModelAverage, OnlineRidge

SCHEMA_VERSION = 1
TRUST = (0.0, 0.25, 0.5, 0.75, 1.0)
FLOOR = 1e-12  # of a belief: no history rules anything out
RIDGE_PENALTY = 20.0  # rows of an average prompt
LEAST_CHANCE = 0.01  # no outcome is ruled out by a linear regression


@dataclass(frozen=True)
class Before:
    """Beliefs before today's policy was asked: (N, M), and for the rows ``again_K`` also as of strangers."""

    belief_NM: np.ndarray
    again_K: np.ndarray
    stranger_KM: np.ndarray

    def weighed(self, trust: float) -> np.ndarray:
        """Beliefs (N, M) in which histories count with the power ``trust``."""
        if not len(self.again_K):
            return self.belief_NM
        history_KM = self.belief_NM[self.again_K]
        log_KM = trust * np.log(history_KM + FLOOR) + (1 - trust) * np.log(self.stranger_KM + FLOOR)
        weighed_NM = self.belief_NM.copy()
        weighed_NM[self.again_K] = normalised(np.exp(log_KM - log_KM.max(axis=1, keepdims=True)))
        return weighed_NM


class Today:
    """``memory``: groups over which it learns."""

    def __init__(self, grid: LogitGrid, memory: float) -> None:
        self.grid = grid
        self.history = ModelAverage(TRUST, memory)
        self.view = PrefillProbe(memory)
        self.known = KnownAnswers(grid, memory)

    def updated(
        self,
        before: Before,
        prompts: Sequence[Candidate | Observation],
        outcome_M3: np.ndarray,
        ability: float,
    ) -> np.ndarray:
        """Beliefs (N, M) with all that today's policy showed taken in; ``outcome_M3`` is P(all wrong,
        informative, all right | state). Raises ValueError for another number of features than those learned
        from."""
        probed_NM = self._probed(before.weighed(self.history.mean), prompts, outcome_M3)
        return self.known.updated(probed_NM, rescored_of(prompts), ability)

    def observe(
        self,
        before: Before,
        groups: Sequence[Observation],
        outcome_M3: np.ndarray,
        ability: float,
        successes_N: np.ndarray,
        trials_N: np.ndarray,
    ) -> None:
        """Learn from N groups: what was believed before, what the policy showed, and the counts."""
        likelihood_NM = self.grid.likelihood(successes_N, trials_N, ability)
        weighed_NM = before.weighed(self.history.mean)
        probed_NM = self._probed(weighed_NM, groups, outcome_M3)
        self._score_history(before, groups, outcome_M3, ability, likelihood_NM)
        self.known.observe(probed_NM, rescored_of(groups), ability, successes_N, trials_N)
        has_N, features_NF = features_of(groups)
        if has_N.any():
            outcome_N = np.where(successes_N == 0, 0, np.where(successes_N == trials_N, 2, 1))
            self.view.observe(
                weighed_NM[has_N], outcome_M3, features_NF, likelihood_NM[has_N], outcome_N[has_N]
            )

    def _probed(
        self, belief_NM: np.ndarray, prompts: Sequence[Candidate | Observation], outcome_M3: np.ndarray
    ) -> np.ndarray:
        """Beliefs (N, M) with the prefill probe of the prompts taken in, where it was asked for."""
        has_N, features_NF = features_of(prompts)
        if not has_N.any():
            return belief_NM
        probed_NM = belief_NM.copy()
        probed_NM[has_N] = self.view.updated(belief_NM[has_N], outcome_M3, features_NF)
        return probed_NM

    def _score_history(
        self,
        before: Before,
        groups: Sequence[Observation],
        outcome_M3: np.ndarray,
        ability: float,
        likelihood_NM: np.ndarray,
    ) -> None:
        """Score every power by what would have been predicted with it in the end."""
        rows_K = before.again_K
        if not len(rows_K):
            return
        again = [groups[i] for i in rows_K]
        probability_KW = np.empty((len(again), len(TRUST)))
        for w, trust in enumerate(TRUST):
            probed_KM = self._probed(before.weighed(trust)[rows_K], again, outcome_M3)
            belief_KM = self.known.updated(probed_KM, rescored_of(again), ability)
            probability_KW[:, w] = (belief_KM * likelihood_NM[rows_K]).sum(axis=1)
        self.history.score(probability_KW)

    def state_dict(self) -> State:
        parts = {
            "history": self.history.state_dict(),
            "view": self.view.state_dict(),
            "known": self.known.state_dict(),
        }
        return joined(State(SCHEMA_VERSION), parts)

    def load_state_dict(self, state: State) -> None:
        self.history.load_state_dict(part(state, "history"))
        self.view.load_state_dict(part(state, "view"))
        self.known.load_state_dict(part(state, "known"))


def was_asked(prompt: Candidate | Observation) -> bool:
    """Whether there is a prefill probe of the prompt, or an earlier answer that is still likely."""
    rescored = prompt.rescored
    return prompt.features is not None or (rescored is not None and rescored.right + rescored.wrong >= LEAST)


class PrefillProbe:
    """What one prefill of a prompt by today's policy (perplexity, entropy of the first token to come, last
    hidden state) tells about the outcome of a group. ``memory``: groups over which it learns.

    Two regressions with slow forgetting predict how likely a group is to come out informative and all right.
    What was believed before is one of their inputs, so that they say what is known in all: nothing is counted
    twice. A belief over states z takes this in by Jeffrey's rule (*The Logic of Decision*, ch. 11): with c
    the outcome of a group, P(c | z) binomial, b_c what the belief gives to c and v_c the probe's answer,

        belief(z) ← belief(z) · Σ_c P(c | z) · (v_c / b_c)^w

    moves the outcome's probabilities from b towards v and leaves alone what is believed given the outcome.
    How far to go, w, is inferred (`ModelAverage`).
    """

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
        told_N3 = np.column_stack([1.0 - informative_N - right_N, informative_N, right_N]).clip(
            LEAST_CHANCE, 1.0
        )
        told_N3 /= told_N3.sum(axis=1, keepdims=True)
        return told_N3 / before_N3.clip(LEAST_CHANCE, 1.0)

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
