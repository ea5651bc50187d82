"""What today's policy shows of a prompt, and how far a history still holds beside it.

A policy can be asked: what one prefill of a prompt tells (`PrefillProbe`), and how likely it finds the
answers it gave before (`KnownAnswers`: answer rescoring). A history cannot: its outcomes are another
policy's, and what they say today is only as good as the model of how pass rates move, which foresees no
sudden understanding. So where the policy has been asked, a history counts with the power w that has predicted
best together with the policy's replies (`ModelAverage`): a power prior (Ibrahim and Chen, Statistical Science
15, 2000).

    belief ∝ stranger^(1 − w) · history^w

with ``history`` what the prompt's outcomes make of it and ``stranger`` what would be believed without them.
Where the policy has not been asked, the history stands as it is.

Shapes: N prompts, K of them visited before and asked about, M states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from estimators.base import Candidate, Observation, State, joined, part
from estimators.known_answers import LEAST, KnownAnswers, rescored_of
from estimators.logit_grid import LogitGrid, normalised
from estimators.model_average import ModelAverage
from estimators.prefill_probe import PrefillProbe, features_of

SCHEMA_VERSION = 1


TRUST = (0.0, 0.25, 0.5, 0.75, 1.0)


FLOOR = 1e-12  # of a belief: no history rules anything out


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
