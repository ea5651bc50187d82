"""How fast pass rates move, inferred from a panel of prompts that is followed under every assumption at once.

Two rates per policy step: the variance of a logit's random walk, and the rate at which prompts that were out
of reach come into it. One belief updated with averaged rates cannot tell them apart: having been spread at
every step it has room for any outcome, and no further spreading ever looks needed. So each pair of rates has
filters of its own, on the first `PANEL` prompts visited: during warm-up, uniform draws from the pool.

Shapes: N prompts, R pairs of rates, P prompts of the panel, L grid points, M states.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from estimators.base import State, joined, part
from estimators.logit_grid import LogitGrid, normalised
from estimators.model_average import ModelAverage

SCHEMA_VERSION = 1


PANEL = 512


VARIANCES = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)  # squared logits per policy step


ESCAPES = (1e-5, 1e-4, 1e-3, 1e-2)  # share of *never* that leaves it in one policy step


RATES = tuple(product(VARIANCES, ESCAPES))


class Movement:
    """``weights`` (R,) of `RATES`, from what each pair predicted for the panel's revisits."""

    def __init__(self, grid: LogitGrid, memory: float) -> None:
        self.grid = grid
        self.model_average = ModelAverage(range(len(RATES)), memory)
        self._row: dict[str, int] = {}
        self._belief_RPM = np.zeros((len(RATES), 0, len(grid)))
        self._visited_at_P = np.zeros(0, dtype=np.int64)

    @property
    def variance(self) -> float:
        """Of the walk, per policy step, by posterior mean."""
        return float(self.model_average.weights @ np.array([variance for variance, _ in RATES]))

    @property
    def escape(self) -> float:
        """Share of *never* that leaves it in one policy step, by posterior mean."""
        return float(self.model_average.weights @ np.array([escape for _, escape in RATES]))

    def spread(self, belief_NM: np.ndarray, elapsed_N: np.ndarray, shift: float) -> np.ndarray:
        """Beliefs after ``elapsed_N`` policy steps, averaged over the rates; ``shift`` as in `LogitGrid`."""
        elapsed_U, index_N = np.unique(elapsed_N, return_inverse=True)
        weights_VE = self.model_average.weights.reshape(len(VARIANCES), len(ESCAPES))
        decay_UVL = self.grid.decay(elapsed_U[:, None] * np.array(VARIANCES))
        decay_UL = np.einsum("v,uvl->ul", weights_VE.sum(axis=1), decay_UVL)
        kept_U = np.exp(-np.outer(elapsed_U, ESCAPES)) @ weights_VE.sum(axis=0)
        return self.grid.spread(belief_NM, decay_UL[index_N], kept_U[index_N], shift)

    def recentre(self, points: int) -> None:
        """Place every prompt of the panel ``points`` grid points further up."""
        flat_NM = self._belief_RPM.reshape(-1, len(self.grid))
        self._belief_RPM = self.grid.moved(flat_NM, points).reshape(self._belief_RPM.shape)

    def first_visit(self, keys: Sequence[str], belief_NM: np.ndarray, step: int) -> None:
        """Take prompts into the panel, with what is believed after their first visit, while there is room."""
        room = PANEL - len(self._row)
        if room <= 0:
            return
        self._row.update({key: len(self._row) + i for i, key in enumerate(keys[:room])})
        entering_RPM = np.broadcast_to(belief_NM[:room], (len(RATES), *belief_NM[:room].shape))
        self._belief_RPM = np.concatenate([self._belief_RPM, entering_RPM], axis=1)
        self._visited_at_P = np.append(self._visited_at_P, np.full(len(keys[:room]), step))

    def revisit(self, keys: Sequence[str], likelihood_NM: np.ndarray, step: int, shift: float) -> None:
        """Score every pair of rates by what it predicted for those of the prompts that are in the panel."""
        members = [i for i, key in enumerate(keys) if key in self._row]
        if not members:
            return
        row_N = np.array([self._row[keys[i]] for i in members])
        elapsed_N = np.maximum(step - self._visited_at_P[row_N], 0)
        probability_NR = np.empty((len(members), len(RATES)))
        for r, (variance, escape) in enumerate(RATES):
            before_NM = self.grid.spread(
                self._belief_RPM[r, row_N],
                self.grid.decay(elapsed_N * variance),
                np.exp(-escape * elapsed_N),
                shift,
            )
            joint_NM = normalised(before_NM) * likelihood_NM[members]
            probability_NR[:, r] = joint_NM.sum(axis=1)
            self._belief_RPM[r, row_N] = normalised(joint_NM)
        self._visited_at_P[row_N] = step
        self.model_average.score(probability_NR)

    def state_dict(self) -> State:
        own = State(
            SCHEMA_VERSION,
            values={"keys": list(self._row)},
            arrays={"beliefs": self._belief_RPM.copy(), "visited_at": self._visited_at_P.copy()},
        )
        return joined(own, {"model_average": self.model_average.state_dict()})

    def load_state_dict(self, state: State) -> None:
        keys = state.values["keys"]
        assert isinstance(keys, list)
        self._row = {key: row for row, key in enumerate(keys)}
        self._belief_RPM = np.array(state.arrays["beliefs"], dtype=np.float64)
        self._visited_at_P = np.array(state.arrays["visited_at"], dtype=np.int64)
        self.model_average.load_state_dict(part(state, "model_average"))
