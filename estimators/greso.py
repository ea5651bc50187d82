"""GRESO (arXiv 2506.02177): skip a prompt the more likely, the longer its run of zero-variance groups.

A prompt whose last z groups were all of one kind is kept with probability

    p_easy^z   after z all-right groups in a row         p_hard^z   after z all-wrong ones

and with probability 1 when its last group was informative or when it was never visited. After each step both
base probabilities move by Δ: down when the step's share of groups of that kind reached its target, up
otherwise.

From the paper and its public code: both start at 1/2, Δ = 0.01, bounds 0.05 and 0.95, a target share of 25 %
zero-variance groups, and no adjustment during the first epoch. That the target is split 1:2, into 1/12 easy
and 1/6 hard, is the code's (``RayPPOTrainer.__init__`` in verl/trainer/ppo/ray_trainer.py): more is to be
explored among the hard prompts. Ours: a run that changes sides starts again at 1, and "first epoch" reads "no
prompt of the step had been visited before", since an estimator knows no epochs.

**These are keep probabilities and no calibrated chances of an informative group**: ``p_informative`` is the
keep probability, so that the selection rule ``skip`` is GRESO's, and the rest goes to the side last seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depo.estimators.base import Candidate, Context, Estimates, Observation, State, tally
from depo.estimators.moments import require_group_size

SCHEMA_VERSION = 1


class GresoEstimator:
    """Raises ValueError for settings that are no probabilities or do not fit together."""

    def __init__(
        self,
        p_easy: float = 0.5,
        p_hard: float = 0.5,
        target_easy: float = 1 / 12,
        target_hard: float = 1 / 6,
        adjustment: float = 0.01,
        p_min: float = 0.05,
        p_max: float = 0.95,
    ) -> None:
        if not 0 <= p_min <= p_max <= 1:
            raise ValueError(f"0 <= p_min <= p_max <= 1 must hold, found {p_min} and {p_max}")
        for name, value in (("p_easy", p_easy), ("p_hard", p_hard)):
            if not p_min <= value <= p_max:
                raise ValueError(f"{name} must lie in [p_min, p_max] = [{p_min}, {p_max}], found {value}")
        for name, value in (
            ("target_easy", target_easy),
            ("target_hard", target_hard),
            ("adjustment", adjustment),
        ):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], found {value}")
        self.p_easy, self.p_hard = float(p_easy), float(p_hard)
        self.target_easy, self.target_hard = float(target_easy), float(target_hard)
        self.adjustment = float(adjustment)
        self.p_min, self.p_max = float(p_min), float(p_max)
        # +z after z all-right groups in a row, −z after z all-wrong ones, 0 after an informative one.
        self._streak: dict[str, int] = {}

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
        """Keep probabilities of N candidates as ``p_informative``; p is thought of as 0, 1/2 or 1."""
        streak_N = np.array([self._streak.get(candidate.key, 0) for candidate in candidates], dtype=np.int64)
        base_N = np.where(streak_N > 0, self.p_easy, self.p_hard)
        keep_N = base_N ** np.abs(streak_N).astype(np.float64)
        if require_group_size(context.group_size) == 1:
            keep_N = np.zeros_like(keep_N)
        right_N = (1 - keep_N) * (1 + np.sign(streak_N)) / 2
        wrong_N = 1 - keep_N - right_N
        mean_N = right_N + keep_N / 2
        variance_N = right_N * (1 - mean_N) ** 2 + keep_N * (0.5 - mean_N) ** 2 + wrong_N * mean_N**2

        def sample(rng: np.random.Generator) -> np.ndarray:
            draw_N = rng.random(len(keep_N))
            return np.where(draw_N < wrong_N, 0.0, np.where(draw_N < wrong_N + right_N, 1.0, 0.5))

        return Estimates(mean_N, np.sqrt(variance_N), keep_N, np.maximum(wrong_N, 0.0), right_N, sample)

    def observe(self, observations: Sequence[Observation], context: Context) -> dict[str, float]:
        """Lengthen or end the runs, then adjust. Raises ValueError for impossible counts, before any change.

        Groups of one rollout say nothing about variance: they count as visits that change no run.
        """
        counts = tally(observations)
        met_again = any(key in self._streak for key in counts)
        easy = hard = groups = 0
        for key, (successes, trials) in counts.items():
            streak = self._streak.setdefault(key, 0)
            if trials < 2:
                continue
            groups += 1
            if successes == trials:
                easy += 1
                self._streak[key] = max(streak, 0) + 1
            elif successes == 0:
                hard += 1
                self._streak[key] = min(streak, 0) - 1
            else:
                self._streak[key] = 0
        if met_again and groups:
            self.p_easy = self._adjusted(self.p_easy, easy / groups >= self.target_easy)
            self.p_hard = self._adjusted(self.p_hard, hard / groups >= self.target_hard)
        return {
            "prompts_visited": float(len(self._streak)),
            "p_easy": self.p_easy,
            "p_hard": self.p_hard,
        }

    def _adjusted(self, p: float, too_many: bool) -> float:
        moved = p - self.adjustment if too_many else p + self.adjustment
        return min(max(moved, self.p_min), self.p_max)

    def state_dict(self) -> State:
        """Keys of the visited prompts, ``streak`` (V,) int64 and the two base probabilities."""
        return State(
            schema_version=SCHEMA_VERSION,
            values={"keys": list(self._streak), "p_easy": self.p_easy, "p_hard": self.p_hard},
            arrays={"streak": np.array(list(self._streak.values()), dtype=np.int64)},
        )

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError when the state is of another version or its parts do not fit together."""
        state.require_version(SCHEMA_VERSION, "greso estimator")
        keys, streak_V = state.values["keys"], np.asarray(state.arrays["streak"])
        p_easy, p_hard = state.values["p_easy"], state.values["p_hard"]
        if not isinstance(keys, list) or streak_V.shape != (len(keys),):
            raise ValueError(
                f"greso estimator: state needs a list of keys and streak of shape (keys,), "
                f"found {streak_V.shape}"
            )
        if not isinstance(p_easy, float) or not isinstance(p_hard, float):
            raise ValueError(
                f"greso estimator: state needs numbers p_easy and p_hard, found {p_easy!r}, {p_hard!r}"
            )
        self.p_easy, self.p_hard = p_easy, p_hard
        self._streak = {key: int(streak) for key, streak in zip(keys, streak_V, strict=True)}
