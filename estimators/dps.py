"""DPS (arXiv 2603.10887): each prompt moves between three hidden states, filtered from its groups' outcomes.

States and outcomes are numbered alike: 0 all wrong, 1 informative, 2 all right. Shapes: N candidates or
groups, V visited prompts, 3 states. Rows of a transition matrix are the state left, columns the state
entered.

From the paper and its public code. Per prompt a belief over the states and Dirichlet counts of its own
transitions, with the same prior count in every cell. Every policy step the belief moves by the expected
transition matrix and the learned counts decay towards the prior by λ. At a visit the outcome corrects the
belief, and the expected transition into it is counted: with b the belief one transition ago, T the matrix
and e_j the likelihood of the outcome in state j,

    ξ_ij = b_i T_ij e_j / Σ b_i T_ij e_j         counts' = λ·counts + ξ

A prompt never visited is believed to be in any state with 1/3. The paper's settings: ``prior_count`` 1,
``confusion`` 0 (the outcome *is* the state), ``steps_per_transition`` 1, ``discount`` 1 in its configuration
and 0.7 in its script for mathematics.

Ours: a group may show the neighbouring state's outcome with probability ``confusion``, so that one
lucky rollout does not rewrite the belief; ``steps_per_transition`` slows the clock for pools that are
visited seldom; a recorded pass rate sets the belief before the first visit; and each state has a mean pass
rate, learned online from all prompts, which gives ``mean``, ``sd`` and ``sample``. The defaults were chosen
on one half of a recorded training run (see benchmarks/log/choosing.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depo.estimators.base import Candidate, Context, Estimates, Observation, State, recorded_rate, tally
from depo.estimators.moments import informative_probability, require_group_size

SCHEMA_VERSION = 1
STATES = 3
PRIOR_MARGIN = 0.01  # a recorded rate of 0 or 1 comes from finitely many rollouts
NEGLIGIBLE = 1e-9  # learned counts this small beside the prior are none

# The states' pass rates before anything is seen, and the rollouts each of them is worth: one usual group.
FIRST_RATES = np.array([0.0, 0.5, 1.0])

FIRST_ROLLOUTS = 8.0


class DpsEstimator:
    """``prior_count``: Dirichlet count of each transition. ``discount`` λ: what learned counts keep at each
    transition. ``confusion`` in [0, 1/3): chance that a group shows a given neighbouring state's outcome.
    ``steps_per_transition``: policy steps that make one transition; at least one happens between visits.
    """

    def __init__(
        self,
        prior_count: float = 0.3,
        discount: float = 0.9,
        confusion: float = 0.05,
        steps_per_transition: int = 1,
    ) -> None:
        if not 0 < prior_count < np.inf:
            raise ValueError(f"prior_count must be positive and finite, found {prior_count}")
        if not 0 <= discount <= 1:
            raise ValueError(f"discount must lie in [0, 1], found {discount}")
        if not 0 <= confusion < 1 / 3:
            raise ValueError(f"confusion must lie in [0, 1/3), found {confusion}")
        if steps_per_transition != int(steps_per_transition) or steps_per_transition < 1:
            raise ValueError(
                f"steps_per_transition must be a whole number of at least 1, found {steps_per_transition}"
            )
        self.prior_count = float(prior_count)
        self.discount = float(discount)
        self.steps_per_transition = int(steps_per_transition)
        c = float(confusion)
        self._emission_33 = np.array([[1 - c, c, 0.0], [c, 1 - 2 * c, c], [0.0, c, 1 - c]])
        self._row: dict[str, int] = {}
        self._belief_V3 = np.zeros((0, STATES))  # after the last visit; V with room to grow
        self._counts_V33 = np.zeros((0, STATES, STATES))  # learned, prior left out
        self._step_V = np.zeros(0, dtype=np.int64)  # of the last visit
        self._rates_32 = np.stack([FIRST_RATES, 1 - FIRST_RATES], axis=1) * FIRST_ROLLOUTS

    # ------------------------------------------------------------ beliefs

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
        """Beliefs about N candidates. Raises ValueError for a prior that is NaN or outside [0, 1]."""
        group_size = require_group_size(context.group_size)
        row_N = np.array([self._row.get(candidate.key, -1) for candidate in candidates], dtype=np.int64)
        belief_N3 = self._first_beliefs(candidates, group_size)
        seen_N = row_N >= 0
        before_N3, transition_N33 = self._before_last_transition(row_N[seen_N], context.step)
        belief_N3[seen_N] = np.einsum("ni,nij->nj", before_N3, transition_N33)
        outcome_N3 = belief_N3 @ self._emission_33
        rate_3 = self._rates_32[:, 0] / self._rates_32.sum(axis=1)
        mean_N = np.clip(belief_N3 @ rate_3, 0.0, 1.0)
        if group_size == 1:
            outcome_N3 = np.stack([1 - mean_N, np.zeros_like(mean_N), mean_N], axis=1)
        # Within the informative state, prompts differ: Beta of weight 2 around the state's mean rate. The
        # other two states are taken for points.
        spread_3 = np.array([0.0, rate_3[1] * (1 - rate_3[1]) / 3, 0.0])
        variance_N = belief_N3 @ (rate_3**2 + spread_3) - mean_N**2

        def sample(rng: np.random.Generator) -> np.ndarray:
            draw_N, within_N = (
                rng.random(len(mean_N)),
                rng.beta(2 * rate_3[1], 2 * (1 - rate_3[1]), len(mean_N)),
            )
            edge_N3 = np.cumsum(belief_N3, axis=1)
            p_N = np.where(draw_N < edge_N3[:, 0], rate_3[0], within_N)
            return np.where(draw_N >= edge_N3[:, 1], rate_3[2], p_N)

        return Estimates(
            mean=mean_N,
            sd=np.sqrt(np.maximum(variance_N, 0.0)),
            p_informative=np.clip(outcome_N3[:, 1], 0.0, 1.0),
            p_all_wrong=outcome_N3[:, 0],
            p_all_right=outcome_N3[:, 2],
            sample=sample,
        )

    def _first_beliefs(self, candidates: Sequence[Candidate], group_size: int) -> np.ndarray:
        """(N, 3) before the first visit: 1/3 each, or what a recorded pass rate makes of a group."""
        belief_N3 = np.full((len(candidates), STATES), 1 / STATES)
        for i, candidate in enumerate(candidates):
            if (recorded := recorded_rate(candidate)) is not None:
                rate = min(max(recorded, PRIOR_MARGIN), 1 - PRIOR_MARGIN)
                informative = float(informative_probability(np.array([rate]), group_size)[0])
                belief_N3[i] = ((1 - rate) ** group_size, informative, rate**group_size)
        return belief_N3

    def _before_last_transition(self, row_N: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Belief one transition before ``step`` (N, 3) and the matrix of that transition (N, 3, 3).

        Between visits, transition d = 0, 1, … uses counts decayed d times. Once these are negligible the
        matrix is the prior's, whose equal cells leave nothing of the belief in a single transition. Without
        decay all transitions are one matrix.
        """
        elapsed_N = np.maximum((step - self._step_V[row_N]) // self.steps_per_transition, 1)
        belief_N3 = self._belief_V3[row_N].copy()
        counts_N33 = self._counts_V33[row_N]
        if self.discount == 1.0:
            matrix_N33 = self._matrix(counts_N33)
            return moved(belief_N3, matrix_N33, elapsed_N - 1), matrix_N33
        active_N = np.arange(len(row_N))
        largest = float(counts_N33.max(initial=0.0))
        done = 0
        while True:
            active_N = active_N[elapsed_N[active_N] > done + 1]
            if not len(active_N):
                break
            if largest * self.discount**done < NEGLIGIBLE * self.prior_count:
                belief_N3[active_N] = 1 / STATES
                break
            matrix_A33 = self._matrix(counts_N33[active_N] * self.discount**done)
            belief_N3[active_N] = np.einsum("ni,nij->nj", belief_N3[active_N], matrix_A33)
            done += 1
        decay_N = self.discount ** (elapsed_N - 1).astype(np.float64)
        return belief_N3, self._matrix(counts_N33 * decay_N[:, None, None])

    def _matrix(self, counts_N33: np.ndarray) -> np.ndarray:
        """Expected transition matrices under the Dirichlet posterior."""
        counts_N33 = counts_N33 + self.prior_count
        return counts_N33 / counts_N33.sum(axis=2, keepdims=True)

    # ------------------------------------------------------------ learning

    def observe(self, observations: Sequence[Observation], context: Context) -> dict[str, float]:
        """One filter step per prompt, at ``context.step``; groups of one prompt are added up.

        Raises ValueError for impossible counts, before any update.
        """
        counts = tally(observations)
        if counts:
            self._filter(list(counts), np.array(list(counts.values()), dtype=np.int64), context.step)
        rate_3 = self._rates_32[:, 0] / self._rates_32.sum(axis=1)
        return {"prompts_visited": float(len(self._row)), "rate_mixed_state": float(rate_3[1])}

    def _filter(self, keys: list[str], counts_N2: np.ndarray, step: int) -> None:
        """counts_N2: successes and trials."""
        new_N = np.array([key not in self._row for key in keys])
        for key in keys:
            self._row.setdefault(key, len(self._row))
        self._grow(len(self._row))
        row_N = np.array([self._row[key] for key in keys], dtype=np.int64)
        self._belief_V3[row_N[new_N]] = 1 / STATES
        self._step_V[row_N[new_N]] = step

        before_N3, transition_N33 = self._before_last_transition(row_N, step)
        elapsed_N = np.maximum((step - self._step_V[row_N]) // self.steps_per_transition, 1)
        outcome_N = np.where(counts_N2[:, 0] == 0, 0, np.where(counts_N2[:, 0] == counts_N2[:, 1], 2, 1))
        likelihood_N3 = self._emission_33[:, outcome_N].T
        joint_N33 = before_N3[:, :, None] * transition_N33 * likelihood_N3[:, None, :]
        joint_N33 /= joint_N33.sum(axis=(1, 2), keepdims=True)
        decay_N = self.discount ** elapsed_N.astype(np.float64)
        self._counts_V33[row_N] = self._counts_V33[row_N] * decay_N[:, None, None] + joint_N33
        self._belief_V3[row_N] = joint_N33.sum(axis=1)
        self._step_V[row_N] = step

        failures_N = counts_N2[:, 1] - counts_N2[:, 0]
        weighted_32 = self._belief_V3[row_N].T @ np.stack([counts_N2[:, 0], failures_N], axis=1)
        self._rates_32 += weighted_32

    def _grow(self, rows: int) -> None:
        missing = rows - len(self._step_V)
        if missing > 0:
            extra = max(missing, len(self._step_V), 64)
            self._belief_V3 = np.pad(self._belief_V3, ((0, extra), (0, 0)))
            self._counts_V33 = np.pad(self._counts_V33, ((0, extra), (0, 0), (0, 0)))
            self._step_V = np.pad(self._step_V, (0, extra))

    # ------------------------------------------------------------ state

    def state_dict(self) -> State:
        """Keys of the visited prompts; ``belief`` (V, 3), ``counts`` (V, 3, 3), ``step`` (V,), ``rates``
        (3, 2) successes and failures by state. Settings belong to the recipe."""
        visited = len(self._row)
        return State(
            schema_version=SCHEMA_VERSION,
            values={"keys": list(self._row)},
            arrays={
                "belief": self._belief_V3[:visited].copy(),
                "counts": self._counts_V33[:visited].copy(),
                "step": self._step_V[:visited].copy(),
                "rates": self._rates_32.copy(),
            },
        )

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError when the state is of another version or its parts do not fit together."""
        state.require_version(SCHEMA_VERSION, "dps estimator")
        keys = state.values["keys"]
        if not isinstance(keys, list):
            raise ValueError("dps estimator: state needs a list of keys")
        visited = len(keys)
        shapes = {"belief": (visited, 3), "counts": (visited, 3, 3), "step": (visited,), "rates": (3, 2)}
        for name, shape in shapes.items():
            if state.arrays[name].shape != shape:
                raise ValueError(
                    f"dps estimator: {name} must have shape {shape} for {visited} keys, "
                    f"found {state.arrays[name].shape}"
                )
        self._row = {key: row for row, key in enumerate(keys)}
        self._belief_V3 = np.array(state.arrays["belief"], dtype=np.float64)
        self._counts_V33 = np.array(state.arrays["counts"], dtype=np.float64)
        self._step_V = np.array(state.arrays["step"], dtype=np.int64)
        self._rates_32 = np.array(state.arrays["rates"], dtype=np.float64)


def moved(belief_N3: np.ndarray, matrix_N33: np.ndarray, times_N: np.ndarray) -> np.ndarray:
    """Beliefs (N, 3) after so many (N,) transitions by matrices (N, 3, 3), by repeated squaring: a long gap
    takes as many products as its number of binary digits."""
    times_N, power_N33 = times_N.copy(), matrix_N33
    while times_N.any():
        odd_N = times_N % 2 == 1
        belief_N3[odd_N] = np.einsum("ni,nij->nj", belief_N3[odd_N], power_N33[odd_N])
        times_N //= 2
        power_N33 = power_N33 @ power_N33
        power_N33 /= power_N33.sum(axis=2, keepdims=True)  # rounding would double with each square
    return belief_N3
