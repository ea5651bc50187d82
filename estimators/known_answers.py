"""What is left to doubt once the answers given before are weighed with today's policy.

A policy's answer to a prompt is a draw from a distribution, and of that distribution something is known: the
answers it gave before, which of them were right, and, by one prefill each, how likely each is today. With a
and b for the probability of the right and of the wrong ones, today's pass rate is

    p = a + (1 − a − b) · ρ

with ρ the share of right ones among the answers never seen. So p lies in [a, 1 − b], however far the policy
has moved since, and only ρ is to be guessed. Its distribution is learned online from the counts of later
groups (expectation-maximisation with slow forgetting), apart for prompts of which much or little is known and
of which known answers were mostly right or mostly wrong: where there is one right answer and it has been
seen, ρ is 0; where right ones have many wordings, it is about a / (a + b). What was believed of p before
weighs in, as far as it has proved to help (`ModelAverage`).

Long answers are never given twice: a and b are 0 then, and the belief stays what it was.

Shapes: N prompts, M states of the grid, R values of ρ, C classes of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estimators.base import Candidate, Observation, State, joined, part
from estimators.logit_grid import LogitGrid, normalised, sigmoid
from estimators.online_learning import ModelAverage

SCHEMA_VERSION = 1
RHO_R = np.concatenate([[0.0], sigmoid(np.linspace(-8.0, 8.0, 33)), [1.0]])
KNOWN = (0.1, 0.5, 0.9)  # bounds between classes: a + b
RIGHT = (0.001, 0.3, 0.7)  # a / (a + b)
CLASSES = (len(KNOWN) + 1) * (len(RIGHT) + 1)
LEAST = 0.01  # below, a + b says nothing
START = 4.0  # groups that the even distribution of ρ, from which learning starts, is worth
FLOOR = 1e-3  # of a belief, relative to its peak: it rules out nothing
TRUST = (0.0, 0.25, 0.5, 0.75, 1.0)


class KnownAnswers:
    """``memory``: groups over which it learns."""

    def __init__(self, grid: LogitGrid, memory: float) -> None:
        self.grid = grid
        self.memory = memory
        self.share_CR = np.full((CLASSES, len(RHO_R)), START / len(RHO_R))
        self.trust = ModelAverage(TRUST, memory)

    def updated(self, belief_NM: np.ndarray, known_N2: np.ndarray, ability: float) -> np.ndarray:
        """Beliefs (N, M) with (a, b) taken in; unchanged where hardly anything is known."""
        rows = np.flatnonzero(known_N2.sum(axis=1) >= LEAST)
        if not len(rows):
            return belief_NM
        updated_NM = belief_NM.copy()
        rate_NR = rates(known_N2[rows])
        weight_NR = self._weights(belief_NM[rows], known_N2[rows], rate_NR, ability, self.trust.mean)
        below_NR, share_NR = self.grid.cells(rate_NR, ability)
        placed_NM = np.zeros((len(rows), len(self.grid)))
        row_N1 = np.arange(len(rows))[:, None]
        np.add.at(placed_NM, (row_N1, below_NR), weight_NR * (1.0 - share_NR))
        np.add.at(placed_NM, (row_N1, below_NR + 1), weight_NR * share_NR)
        updated_NM[rows] = placed_NM
        return updated_NM

    def observe(
        self,
        belief_NM: np.ndarray,
        known_N2: np.ndarray,
        ability: float,
        successes_N: np.ndarray,
        trials_N: np.ndarray,
    ) -> None:
        """Learn from N groups: what was believed before, (a, b) when they were picked, and the counts."""
        rows = np.flatnonzero(known_N2.sum(axis=1) >= LEAST)
        if not len(rows):
            return
        belief_NM, known_N2 = belief_NM[rows], known_N2[rows]
        rate_NR = rates(known_N2)
        likelihood_NR = binomial(successes_N[rows], trials_N[rows], rate_NR, self.grid.noise)
        weights = [self._weights(belief_NM, known_N2, rate_NR, ability, trust) for trust in TRUST]
        self.trust.score(np.column_stack([(w_NR * likelihood_NR).sum(axis=1) for w_NR in weights]))
        weight_NR = self._weights(belief_NM, known_N2, rate_NR, ability, self.trust.mean)
        kept = np.exp(-len(rows) / self.memory)
        self.share_CR = kept * self.share_CR + (1.0 - kept) * START / len(RHO_R)
        np.add.at(self.share_CR, classes(known_N2), normalised(weight_NR * likelihood_NR))

    def _weights(
        self,
        belief_NM: np.ndarray,
        known_N2: np.ndarray,
        rate_NR: np.ndarray,
        ability: float,
        trust: float,
    ) -> np.ndarray:
        """Of each ρ: what its class gives to it, times what was believed of the pass rate it makes."""
        below_NR, share_NR = self.grid.cells(rate_NR, ability)
        row_N1 = np.arange(len(belief_NM))[:, None]
        density_NR = belief_NM[row_N1, below_NR] * (1.0 - share_NR)
        density_NR += belief_NM[row_N1, below_NR + 1] * share_NR
        peak_N1 = density_NR.max(axis=1, keepdims=True, initial=np.finfo(float).tiny)
        return normalised(self.share_CR[classes(known_N2)] * (density_NR / peak_N1 + FLOOR) ** trust)

    def state_dict(self) -> State:
        own = State(SCHEMA_VERSION, arrays={"share": self.share_CR.copy()})
        return joined(own, {"trust": self.trust.state_dict()})

    def load_state_dict(self, state: State) -> None:
        self.share_CR = np.array(state.arrays["share"], dtype=np.float64)
        self.trust.load_state_dict(part(state, "trust"))


def rates(known_N2: np.ndarray) -> np.ndarray:
    """Pass rates (N, R) that each ρ makes of (a, b)."""
    right_N1, wrong_N1 = known_N2[:, :1].clip(0.0, 1.0), known_N2[:, 1:].clip(0.0, 1.0)
    return right_N1 + np.maximum(1.0 - right_N1 - wrong_N1, 0.0) * RHO_R


def classes(known_N2: np.ndarray) -> np.ndarray:
    """(N,) int: by how much is known and how much of that was right."""
    known_N = known_N2.sum(axis=1)
    right_N = known_N2[:, 0] / np.maximum(known_N, np.finfo(float).tiny)
    return (len(RIGHT) + 1) * np.searchsorted(KNOWN, known_N) + np.searchsorted(RIGHT, right_N)


def binomial(successes_N: np.ndarray, trials_N: np.ndarray, rate_NR: np.ndarray, noise: float) -> np.ndarray:
    """Probability (N, R) of these verdicts when one in 1 / ``noise`` is wrong, of the likeliest in each row:
    of large groups the probability itself may be too small for a float."""
    rate_NR = noise + (1.0 - 2.0 * noise) * rate_NR.clip(0.0, 1.0)
    successes_N1, trials_N1 = successes_N[:, None], trials_N[:, None]
    log_NR = successes_N1 * np.log(rate_NR) + (trials_N1 - successes_N1) * np.log1p(-rate_NR)
    return np.exp(log_NR - log_NR.max(axis=1, keepdims=True))


def rescored_of(prompts: Sequence[Candidate | Observation]) -> np.ndarray:
    """(a, b) of each prompt, (N, 2); zeros where nothing is known."""
    known_N2 = np.zeros((len(prompts), 2))
    for row, prompt in enumerate(prompts):
        if prompt.rescored is not None:
            known_N2[row] = prompt.rescored.right, prompt.rescored.wrong
    return known_N2
