"""Beliefs about a pass rate as weights on a grid over its logit, and on one state apart: *never*.

A grid holds any shape a belief can take: two humps before the first visit, a long tail after eight failures.
Prompts out of the policy's reach altogether are no low point of that grid: nothing lifts them while the
others improve. They have a state of their own, which is left only by luck, at a small rate.

Between visits the rest of a belief spreads as a continuous-time random walk along the grid, which keeps
weights positive and their sum at 1 whatever the elapsed time. The walk's generator has the cosines as
eigenvectors, so that spreading is a multiplication in that basis.

Shapes: N prompts, L grid points, M = 1 + L states, *never* first, R pairs of rates, P prompts of the panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from estimators.base import State, joined, part
from estimators.online_learning import ModelAverage

LOGITS = 9.9  # rates from 5e-5 to 1 − 5e-5
SPACING = 0.3
LANDING = (-5.0, -1.0)  # logits where a prompt that leaves *never* is first found: solved now and then
SCHEMA_VERSION = 1
PANEL = 512
VARIANCES = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)  # squared logits per policy step
ESCAPES = (1e-5, 1e-4, 1e-3, 1e-2)  # share of *never* that leaves it in one policy step
RATES = tuple(product(VARIANCES, ESCAPES))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, dtype=np.float64)))


class LogitGrid:
    """L = 67 equally spaced logits and *never*; ``spread`` moves weights between them, ``likelihood`` weighs.

    ``noise`` is the chance that a verdict is wrong: observed success rates lie in [noise, 1 − noise], so
    that one wrong verdict cannot contradict a belief beyond repair.
    """

    def __init__(self, noise: float) -> None:
        if not 0 < noise < 0.5:
            raise ValueError(f"noise must lie in (0, 0.5), found {noise}")
        self.noise = noise
        self.points_L = np.arange(-LOGITS, LOGITS + SPACING / 2, SPACING)
        modes_L = np.arange(len(self.points_L))
        # Orthonormal DCT-II basis: eigenvectors of the walk with reflecting ends.
        basis_LL = np.cos(np.pi * (modes_L[:, None] + 0.5) * modes_L / len(modes_L))
        self.basis_LL = basis_LL / np.linalg.norm(basis_LL, axis=0)
        # A walk of variance 1 per unit of time jumps to either side at the rate 1 / (2 · spacing²).
        self.eigenvalues_L = -(1.0 - np.cos(np.pi * modes_L / len(modes_L))) / SPACING**2

    def __len__(self) -> int:
        return 1 + len(self.points_L)

    def rates(self, shift: float = 0.0) -> np.ndarray:
        """Success rates (M,) to observe when all grid points are moved by ``shift`` logits; *never* stays."""
        return self.noise + (1.0 - 2.0 * self.noise) * np.append(0.0, sigmoid(self.points_L + shift))

    def decay(self, variance: np.ndarray) -> np.ndarray:
        """What walks of the given ``variance`` (...,) (squared logits) leave of each mode: (..., L)."""
        return np.exp(np.asarray(variance, dtype=np.float64)[..., None] * self.eigenvalues_L)

    def spread(
        self, belief_NM: np.ndarray, decay_NL: np.ndarray, kept_N: np.ndarray | float, shift: float = 0.0
    ) -> np.ndarray:
        """Beliefs (N, M) after walks with these ``decay`` factors, (N, L) or (L,).

        ``kept_N``, (N,) or one number, is the share of *never* that is still there; the rest is found among
        the rates of `LANDING`, grid points being moved by ``shift``.
        """
        logit_L = self.points_L + shift
        landing_L = ((logit_L >= LANDING[0]) & (logit_L <= LANDING[1])).astype(np.float64)
        if not landing_L.any():  # moved out of the grid
            landing_L[0] = 1.0
        never_N = belief_NM[:, 0] * kept_N
        left_N = belief_NM[:, 0] - never_N
        grid_NL = ((belief_NM[:, 1:] @ self.basis_LL) * decay_NL) @ self.basis_LL.T
        grid_NL = np.maximum(grid_NL, 0.0) + left_N[:, None] * landing_L / landing_L.sum()  # max: rounding
        return np.column_stack([never_N, grid_NL])

    def likelihood(self, successes_N: np.ndarray, trials_N: np.ndarray, shift: float = 0.0) -> np.ndarray:
        """Probability (N, M) of these verdicts, in order, in every state; scaled to a maximum of 1."""
        rate_M = self.rates(shift)
        log_NM = np.outer(successes_N, np.log(rate_M)) + np.outer(trials_N - successes_N, np.log1p(-rate_M))
        return np.exp(log_NM - log_NM.max(axis=1, keepdims=True))

    def moved(self, weights_NM: np.ndarray, points: int) -> np.ndarray:
        """Beliefs (N, M) with every grid point's weight ``points`` further up (down where negative); what
        would leave the grid stays at its end. *Never* stays."""
        moved_NM = np.zeros_like(weights_NM)
        moved_NM[:, 0] = weights_NM[:, 0]
        to_L = 1 + np.clip(np.arange(len(self.points_L)) + points, 0, len(self.points_L) - 1)
        np.add.at(moved_NM.T, to_L, weights_NM[:, 1:].T)
        return moved_NM

    def seen_from(self, values_NM: np.ndarray, points: int) -> np.ndarray:
        """Functions of the state (N, M), such as likelihoods, as they read once every prompt's place is
        ``points`` further up; beyond the ends they go on as at the end."""
        from_L = 1 + np.clip(np.arange(len(self.points_L)) - points, 0, len(self.points_L) - 1)
        return np.concatenate([values_NM[:, :1], values_NM[:, from_L]], axis=1)

    def cells(self, rate_NR: np.ndarray, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Where success rates (N, R) lie among the states: the state below, (N, R) int, and the share of the
        way to the next one, (N, R). *Never* counts as the point before the first; what lies beyond the ends
        is at the ends."""
        rate_NR = np.clip(rate_NR, 1e-12, 1.0 - 1e-12)
        logit_NR = np.log(rate_NR) - np.log1p(-rate_NR) - shift
        place_NR = np.clip((logit_NR + LOGITS) / SPACING + 1.0, 0.0, len(self) - 1.0)
        below_NR = np.minimum(place_NR.astype(np.int64), len(self) - 2)
        return below_NR, place_NR - below_NR

    def draw(self, belief_NM: np.ndarray, rng: np.random.Generator, shift: float = 0.0) -> np.ndarray:
        """A success rate from each belief, (N,): a state by its weight, then anywhere in its cell."""
        cumulated_NM = np.cumsum(belief_NM, axis=1)
        threshold_N = rng.random(len(belief_NM)) * cumulated_NM[:, -1]
        state_N = np.minimum((cumulated_NM <= threshold_N[:, None]).sum(axis=1), len(self) - 1)
        logit_N = self.points_L[np.maximum(state_N - 1, 0)] + (rng.random(len(belief_NM)) - 0.5) * SPACING
        rate_N = np.where(state_N == 0, 0.0, sigmoid(logit_N + shift))
        return self.noise + (1.0 - 2.0 * self.noise) * rate_N


def normalised(weights_NM: np.ndarray) -> np.ndarray:
    return weights_NM / weights_NM.sum(axis=-1, keepdims=True)


class Movement:
    """How fast pass rates move: the variance of a logit's walk per policy step, and the rate at which prompts
    come into reach. Both are inferred from a panel of prompts that is followed under all `RATES` at once.

    One belief updated with averaged rates cannot tell them apart: having been spread at every step it has
    room for any outcome, and no further spreading ever looks needed. So each pair of rates has filters of its
    own, on the first `PANEL` prompts visited: during warm-up, uniform draws from the pool.
    """

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
