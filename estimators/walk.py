"""How fast pass rates wander, inferred from a panel of prompts that is followed at every rate at once.

One belief updated with the averaged rate cannot tell the rates apart: having been spread at every step
it has room for any outcome, and no further spreading ever looks needed. So each candidate rate has filters
of its own, on the first `PANEL` prompts visited. During warm-up these are uniform draws from the pool.

Shapes: R rates, P prompts of the panel, M grid points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estimators.base import State
from estimators.contest import Contest
from estimators.logit_grid import LogitGrid, normalised
from estimators.nested_state import joined, part

SCHEMA_VERSION = 1
PANEL = 512
VARIANCES = (0.0, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)  # squared logits per policy step


class WanderingRate:
    """``weights`` (R,) of `VARIANCES`, from what each of them predicted for the panel's revisits."""

    def __init__(self, grid: LogitGrid, memory: float) -> None:
        self.grid = grid
        self.contest = Contest(VARIANCES, memory)
        self._row: dict[str, int] = {}
        self._belief_RPM = np.zeros((len(VARIANCES), 0, len(grid)))
        self._visited_at_P = np.zeros(0, dtype=np.int64)

    @property
    def weights(self) -> np.ndarray:
        return self.contest.weights

    def decay(self, elapsed_N: np.ndarray) -> np.ndarray:
        """What is left of each mode after ``elapsed_N`` policy steps, averaged over the rates: (N, M)."""
        elapsed_U, index_N = np.unique(elapsed_N, return_inverse=True)
        decay_URM = self.grid.decay(elapsed_U[:, None] * self.contest.values_S)
        return np.einsum("r,urm->um", self.weights, decay_URM)[index_N]

    def first_visit(self, keys: Sequence[str], belief_NM: np.ndarray, step: int) -> None:
        """Take prompts into the panel, with what is believed after their first visit, while there is room."""
        room = PANEL - len(self._row)
        if room <= 0:
            return
        self._row.update({key: len(self._row) + i for i, key in enumerate(keys[:room])})
        entering_RPM = np.broadcast_to(belief_NM[:room], (len(VARIANCES), *belief_NM[:room].shape))
        self._belief_RPM = np.concatenate([self._belief_RPM, entering_RPM], axis=1)
        self._visited_at_P = np.append(self._visited_at_P, np.full(len(keys[:room]), step))

    def revisit(self, keys: Sequence[str], likelihood_NM: np.ndarray, step: int) -> None:
        """Score every rate by what it predicted for those of the prompts that belong to the panel."""
        members = [i for i, key in enumerate(keys) if key in self._row]
        if not members:
            return
        row_N = np.array([self._row[keys[i]] for i in members])
        elapsed_N = np.maximum(step - self._visited_at_P[row_N], 0)
        probability_NR = np.empty((len(members), len(VARIANCES)))
        for r, variance in enumerate(VARIANCES):
            before_NM = normalised(
                self.grid.spread(self._belief_RPM[r, row_N], self.grid.decay(elapsed_N * variance))
            )
            joint_NM = before_NM * likelihood_NM[members]
            probability_NR[:, r] = joint_NM.sum(axis=1)
            self._belief_RPM[r, row_N] = normalised(joint_NM)
        self._visited_at_P[row_N] = step
        self.contest.score(probability_NR)

    def state_dict(self) -> State:
        own = State(
            SCHEMA_VERSION,
            values={"keys": list(self._row)},
            arrays={"beliefs": self._belief_RPM.copy(), "visited_at": self._visited_at_P.copy()},
        )
        return joined(own, {"contest": self.contest.state_dict()})

    def load_state_dict(self, state: State) -> None:
        keys = state.values["keys"]
        assert isinstance(keys, list)
        self._row = {key: row for row, key in enumerate(keys)}
        self._belief_RPM = np.array(state.arrays["beliefs"], dtype=np.float64)
        self._visited_at_P = np.array(state.arrays["visited_at"], dtype=np.int64)
        self.contest.load_state_dict(part(state, "contest"))
