"""MoPPS (arXiv 2507.04632): a Beta posterior per prompt whose old counts are discounted at each visit.

With prior Beta(α₀, β₀), discount λ and k successes in n trials at a visit,

    α' = λ·α + (1 − λ)·α₀ + k          β' = λ·β + (1 − λ)·β₀ + (n − k)

Kept per visited prompt is the evidence S = α − α₀ and F = β − β₀, for which the same update reads
S' = λ·S + k and F' = λ·F + (n − k). The prior thus stays out of the memory: it is the candidate's own
pass rate where the data set brings one along, and unvisited prompts cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depo.estimators.base import Candidate, Context, Estimates, Observation, State, recorded_rate, tally
from depo.estimators.moments import beta_estimates

SCHEMA_VERSION = 1

# A recorded pass rate of exactly 0 or 1 comes from finitely many rollouts, and a Beta needs both of its
# parameters positive: priors are kept this far from the ends.
PRIOR_MARGIN = 0.01


class MoppsEstimator:
    """``prior_successes`` α₀ and ``prior_failures`` β₀ are pseudo-counts; ``discount`` is λ in [0, 1].

    A candidate with a ``prior`` r starts from Beta(r·w, (1−r)·w) with w = α₀ + β₀.
    """

    def __init__(
        self, prior_successes: float = 1.0, prior_failures: float = 1.0, discount: float = 0.5
    ) -> None:
        if not (0 < prior_successes < np.inf and 0 < prior_failures < np.inf):
            raise ValueError(
                "prior_successes and prior_failures must be positive and finite, found "
                f"{prior_successes} and {prior_failures}"
            )
        if not 0 <= discount <= 1:
            raise ValueError(f"discount must lie in [0, 1], found {discount}")
        self.prior_successes = float(prior_successes)
        self.prior_failures = float(prior_failures)
        self.discount = float(discount)
        self._evidence: dict[str, tuple[float, float]] = {}  # (S, F) of the V visited prompts

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
        """Beta beliefs about N candidates. Raises ValueError for a prior that is NaN or outside [0, 1]."""
        weight = self.prior_successes + self.prior_failures
        rate_N = np.full(len(candidates), self.prior_successes / weight)
        for i, candidate in enumerate(candidates):
            if (recorded := recorded_rate(candidate)) is not None:
                rate_N[i] = min(max(recorded, PRIOR_MARGIN), 1 - PRIOR_MARGIN)
        evidence = [self._evidence.get(candidate.key, (0.0, 0.0)) for candidate in candidates]
        evidence_N2 = np.array(evidence).reshape(-1, 2)
        return beta_estimates(
            rate_N * weight + evidence_N2[:, 0],
            (1 - rate_N) * weight + evidence_N2[:, 1],
            context.group_size,
        )

    def observe(self, observations: Sequence[Observation], context: Context) -> dict[str, float]:
        """One discounted update per prompt. Raises ValueError for impossible counts, before any update."""
        for key, (successes, trials) in tally(observations).items():
            right, wrong = self._evidence.get(key, (0.0, 0.0))
            self._evidence[key] = (
                self.discount * right + successes,
                self.discount * wrong + (trials - successes),
            )
        return {"prompts_visited": float(len(self._evidence))}

    def state_dict(self) -> State:
        """Keys of the visited prompts and ``evidence`` (V, 2) float64. Settings belong to the recipe."""
        return State(
            schema_version=SCHEMA_VERSION,
            values={"keys": list(self._evidence)},
            arrays={"evidence": np.array(list(self._evidence.values()), dtype=np.float64).reshape(-1, 2)},
        )

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError when the state is of another version or its parts do not fit together."""
        state.require_version(SCHEMA_VERSION, "mopps estimator")
        keys = state.values["keys"]
        evidence_V2 = np.array(state.arrays["evidence"], dtype=np.float64)
        if not isinstance(keys, list) or evidence_V2.shape != (len(keys), 2):
            raise ValueError(
                f"mopps estimator: state needs a list of keys and evidence of shape (keys, 2), "
                f"found {evidence_V2.shape}"
            )
        self._evidence = {
            key: (right, wrong) for key, (right, wrong) in zip(keys, evidence_V2.tolist(), strict=True)
        }
