"""How good the predictions are, on groups that no filter chose, and whether they may choose.

Each graded group was drawn uniformly and predicted *before* its outcome was known. W: groups in the window.

The gate compares the estimator's Brier score on ``p_mixed`` with that of the base rate. As base rate stands
the window's own share of mixed groups: the constant which fits the window best in hindsight, so that no
constant prediction can ever be better than it. (Leaving the group itself out would be a trap: that rate
moves against each outcome, and the plain constant then beats it group after group.) The flattery costs an
informative estimator p(1−p)/W of Brier score, 0.00125 at most for W = 200.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

ECE_BINS = 15
ROUNDING = 1e-12  # differences of squared errors below this are float noise


@dataclass(frozen=True, slots=True)
class Graded:
    """One uniformly drawn group: what was predicted, and what came of it (``successes`` of ``trials``)."""

    predicted_mixed: float
    predicted_mean: float
    successes: int
    trials: int

    @property
    def mixed(self) -> bool:
        return 0 < self.successes < self.trials


# ---------------------------------------------------------------- metrics


def midranks(values_W: np.ndarray) -> np.ndarray:
    """Ranks 1 … W, equal values sharing the mean of their ranks. (W,) float64."""
    _, inverse_W, counts_U = np.unique(values_W, return_inverse=True, return_counts=True)
    last_U = np.cumsum(counts_U)
    return (last_U - (counts_U - 1) / 2.0)[inverse_W]


def auroc(predicted_W: np.ndarray, mixed_W: np.ndarray) -> float:
    """Probability that a mixed group was predicted above one that is not, ties counting half. NaN when
    the window holds one kind only."""
    positives = int(mixed_W.sum())
    negatives = len(mixed_W) - positives
    if not positives or not negatives:
        return math.nan
    rank_sum = float(midranks(predicted_W)[mixed_W.astype(bool)].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def brier(predicted_W: np.ndarray, mixed_W: np.ndarray) -> float:
    """Mean squared error of the predicted probabilities. NaN for an empty window."""
    return float(np.mean((predicted_W - mixed_W) ** 2)) if len(mixed_W) else math.nan


def brier_skill(predicted_W: np.ndarray, mixed_W: np.ndarray) -> float:
    """1 − Brier / Brier of the window's base rate. NaN when the window holds one kind only."""
    base = float(np.mean(mixed_W)) if len(mixed_W) else math.nan
    reference = base * (1 - base)
    return 1 - brier(predicted_W, mixed_W) / reference if reference > 0 else math.nan


def expected_calibration_error(predicted_W: np.ndarray, mixed_W: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean over groups of |mean prediction − mixed share| in its bin; bins of equal mass by midrank, so that
    equal predictions share a bin. NaN for an empty window."""
    if not len(mixed_W):
        return math.nan
    bin_W = ((midranks(predicted_W) - 0.5) / len(mixed_W) * bins).astype(int)
    gap_B = np.bincount(bin_W, weights=predicted_W - mixed_W, minlength=bins)
    return float(np.abs(gap_B).sum() / len(mixed_W))


def false_reject_rate(predicted_W: np.ndarray, mixed_W: np.ndarray, threshold: float = 0.5) -> float:
    """Share of the mixed groups that were predicted to be mixed with less than ``threshold``. NaN when no
    group is mixed."""
    mixed_W = mixed_W.astype(bool)
    return float(np.mean(predicted_W[mixed_W] < threshold)) if mixed_W.any() else math.nan


# ---------------------------------------------------------------- window and gate


class Calibration:
    """Rolling window of graded groups, and the gate that lets predictions choose.

    The gate *opens* when ``min_window`` groups have been graded and the estimator beats the base rate over
    the whole window, by a one-sided z test on the paired differences of squared errors. Looking again and
    again would open it for a useless estimator sooner or later; so it looks once for every
    ``min_window / 2`` new groups, and look j is taken at the level α/(j(j+1)) with α = 1 − ``confidence``.
    These add up to α: the chance that a useless estimator is let in at any time of a run is at most α.

    It *closes* again (selection fails open to uniform) when the estimator is worse than the base rate over
    the newest ``min_window`` groups, at the plain level α and after every new group: erring in this
    direction costs rollouts, never the result. Between the two thresholds it stays as it is.

    ``min_window`` 0 switches the gate off: open from the start, and never closed.
    """

    def __init__(self, window: int, min_window: int, confidence: float) -> None:
        self.min_window = min_window
        self.confidence = confidence
        self.graded: deque[Graded] = deque(maxlen=window)
        self.open = min_window == 0
        self._looks = 0
        self._new = 0  # groups graded since the last look

    def add(self, graded: Graded) -> None:
        """Grade one group and let the gate decide. Raises ValueError when a prediction is no probability."""
        for name in ("predicted_mixed", "predicted_mean"):
            if not 0 <= getattr(graded, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], found {getattr(graded, name)}")
        self.graded.append(graded)
        self._new += 1
        if self.min_window == 0 or len(self.graded) < self.min_window:
            return
        if self.open:
            if self.advantage(newest=self.min_window) < -NormalDist().inv_cdf(self.confidence):
                self.open = False
        elif self._looks == 0 or self._new >= self.min_window / 2:
            self._new = 0
            self._looks += 1
            level = (1 - self.confidence) / (self._looks * (self._looks + 1))
            self.open = self.advantage() > NormalDist().inv_cdf(1 - level)

    def arrays(self, newest: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(predicted p_mixed, mixed), each (W,) float64, oldest first."""
        graded = list(self.graded)[-newest if newest else None :]
        return (
            np.array([one.predicted_mixed for one in graded], dtype=np.float64),
            np.array([one.mixed for one in graded], dtype=np.float64),
        )

    def advantage(self, newest: int | None = None) -> float:
        """z statistic of base rate's minus estimator's squared error: positive when the estimator is better.

        Infinite when the differences are all alike and not 0 (a perfect prediction where half are mixed).
        """
        predicted_W, mixed_W = self.arrays(newest)
        difference_W = (mixed_W.mean() - mixed_W) ** 2 - (predicted_W - mixed_W) ** 2
        mean = float(difference_W.mean())
        if len(difference_W) < 2 or np.abs(difference_W).max() < ROUNDING:
            return 0.0
        if np.ptp(difference_W) < ROUNDING:
            return math.copysign(math.inf, mean)
        return mean / (float(difference_W.std(ddof=1)) / math.sqrt(len(difference_W)))

    def metrics(self) -> dict[str, float]:
        """Figures of the window; those that are undefined on it are left out."""
        predicted_W, mixed_W = self.arrays()
        rate_error_W = [one.predicted_mean - one.successes / one.trials for one in self.graded]
        figures = {
            "auroc": auroc(predicted_W, mixed_W),
            "brier": brier(predicted_W, mixed_W),
            "brier_skill": brier_skill(predicted_W, mixed_W),
            "ece": expected_calibration_error(predicted_W, mixed_W),
            "false_reject_rate": false_reject_rate(predicted_W, mixed_W),
            "base_rate": float(mixed_W.mean()) if len(mixed_W) else math.nan,
            "pass_rate_bias": float(np.mean(rate_error_W)) if rate_error_W else math.nan,
        }
        defined = {name: value for name, value in figures.items() if not math.isnan(value)}
        return {"groups": float(len(self.graded)), **defined}

    def state_dict(self) -> dict[str, Any]:
        return {
            "graded": [list(astuple(one)) for one in self.graded],
            "open": self.open,
            "looks": self._looks,
            "new": self._new,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.graded.clear()
        self.graded.extend(Graded(*one) for one in state["graded"])
        self.open = bool(state["open"])
        self._looks = int(state["looks"])
        self._new = int(state["new"])
