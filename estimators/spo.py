"""SPO's value tracker (arXiv 2509.13232, §3.2): discounted counts per prompt, which fade as far as the policy
has moved.

A prompt starts from N₀ = 1/(1 − ρ_min) pseudo-counts at the rate v₀. At a visit with k successes in n trials,
D being the KL divergence that the policy has travelled since the prompt's last visit,

    ρ = clip(2^(−D / D_half), ρ_min, ρ_max)        α ← ρ·α + k        β ← ρ·β + n − k        v = α / (α + β)

The paper estimates v₀ from eight rollouts of each prompt ahead of training; here it is the candidate's
recorded pass rate, where there is one, else one number for all. D is counted in nats a token, as this
project's loop measures it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depo.estimators.base import Candidate, Context, Estimates, Observation, State, recorded_rate, tally
from depo.estimators.moments import beta_estimates

SCHEMA_VERSION = 1
MARGIN = 0.01  # a start at exactly 0 or 1 could never be left


class SpoEstimator:
    """Settings as above: ``start`` v₀, ``kl_half`` D_half (nats a token), ``keep_min`` and ``keep_max`` ρ's
    bounds."""

    def __init__(
        self, start: float = 0.5, kl_half: float = 0.06, keep_min: float = 0.875, keep_max: float = 0.96
    ) -> None:
        if not (0 <= start <= 1 and kl_half > 0 and 0 <= keep_min <= keep_max < 1):
            raise ValueError(
                "expected start in [0, 1], kl_half above 0 and 0 <= keep_min <= keep_max < 1, found "
                f"{start}, {kl_half}, {keep_min} and {keep_max}"
            )
        self.start, self.kl_half = float(start), float(kl_half)
        self.keep_min, self.keep_max = float(keep_min), float(keep_max)
        self._tracked: dict[str, tuple[float, float, float]] = {}  # α, β, KL travelled at the last visit

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
        """Beta(α, β) of N candidates. Raises ValueError for a prior that is NaN or outside [0, 1]."""
        counts_N2 = np.array([self._counts(candidate) for candidate in candidates]).reshape(-1, 2)
        return beta_estimates(counts_N2[:, 0], counts_N2[:, 1], context.group_size)

    def _counts(self, prompt: Candidate | Observation) -> tuple[float, float]:
        if prompt.key in self._tracked:
            return self._tracked[prompt.key][:2]
        recorded = recorded_rate(prompt)
        rate = min(max(self.start if recorded is None else recorded, MARGIN), 1 - MARGIN)
        total = 1 / (1 - self.keep_min)
        return rate * total, (1 - rate) * total

    def observe(self, observations: Sequence[Observation], context: Context) -> dict[str, float]:
        """One update per prompt. Raises ValueError for impossible counts, before any update."""
        prompts = {observation.key: observation for observation in observations}
        for key, (successes, trials) in tally(observations).items():
            right, wrong = self._counts(prompts[key])
            moved = context.kl_travelled - self._tracked.get(key, (0.0, 0.0, 0.0))[2]
            keep = min(max(2 ** (-max(moved, 0.0) / self.kl_half), self.keep_min), self.keep_max)
            self._tracked[key] = (
                keep * right + successes,
                keep * wrong + trials - successes,
                context.kl_travelled,
            )
        return {"prompts_visited": float(len(self._tracked))}

    def state_dict(self) -> State:
        """Keys of the V visited prompts and ``tracked`` (V, 3) float64."""
        tracked = np.array(list(self._tracked.values()), dtype=np.float64).reshape(-1, 3)
        return State(SCHEMA_VERSION, {"keys": list(self._tracked)}, {"tracked": tracked})

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError when the state is of another version or its parts do not fit together."""
        state.require_version(SCHEMA_VERSION, "spo estimator")
        keys, tracked_V3 = state.values["keys"], np.array(state.arrays["tracked"], dtype=np.float64)
        if not isinstance(keys, list) or tracked_V3.shape != (len(keys), 3):
            raise ValueError(
                f"spo estimator: expected a list of keys and (keys, 3), found {tracked_V3.shape}"
            )
        self._tracked = {
            key: (right, wrong, kl) for key, (right, wrong, kl) in zip(keys, tracked_V3.tolist(), strict=True)
        }
