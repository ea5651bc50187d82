"""How good the predictions are, on groups that no filter chose, and whether they may choose.

Each graded group was drawn uniformly and predicted *before* its outcome was known. W: groups in the window.

The gate compares the estimator's Brier score on ``p_informative`` with that of the base rate. As base rate
stands the window's own share of informative groups: the constant which fits the window best in hindsight, so
that no constant prediction can ever be better than it. (Leaving the group itself out would be a trap: that
rate moves against each outcome, and the plain constant then beats it group after group.) The flattery costs
an informative estimator p(1−p)/W of Brier score, 0.00125 at most for W = 200.

Where the belief is the baseline, what counts is the pass rate itself: the prediction p̂ is held against each
rollout. Over a group, Σ (p̂ − r)² is G (p̂ − r̄)² and a part that no prediction changes: so p̂ against the
group's pass rate r̄ is the same comparison, for groups of one too.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from depo.report.calibration import (
    auroc,
    average_precision,
    brier,
    brier_skill,
    by_visits,
    expected_calibration_error,
    false_reject_rate,
    rate_skill,
    reliability,
    spearman,
)
from depo.report.statistics import wilson_interval

ROUNDING = 1e-12  # differences of squared errors below this are float noise


@dataclass(frozen=True, slots=True)
class Graded:
    """One uniformly drawn group: what was predicted, and what came of it (``successes`` of ``trials``).

    ``visits`` is how many groups of the prompt had been observed before this one; −1 where unknown.
    ``blind``: all prompts of the step were predicted alike, as before anything was learned.
    """

    predicted_informative: float
    predicted_mean: float
    successes: int
    trials: int
    visits: int = -1
    blind: bool = False

    @property
    def informative(self) -> bool:
        return 0 < self.successes < self.trials


class Calibration:
    """Rolling window of graded groups, and the gate that lets predictions choose.

    The gate *opens* when ``min_window`` groups have been graded and the estimator beats the base rate over
    the whole window, by a one-sided z test on the paired differences of squared errors. Blind groups count
    for nothing: how far off a constant was says nothing of the predictions that would choose. Looking again
    and again would open it for a useless estimator sooner or later; so it looks once for every
    ``min_window / 2`` new groups, and look j is taken at the level α/(j(j+1)) with α = 1 − ``confidence``.
    These add up to α: the chance that a useless estimator is let in at any time of a run is at most α.

    It *closes* again (selection fails open to uniform) when the estimator is worse than the base rate over
    the newest ``min_window`` groups, whatever that is: the window's share of informative groups, or either
    end of that share's 95 % interval (Wilson's). Where informative groups are rare, a window that happens to
    hold none would else be predicted best by 0, in hindsight, and no honest estimator could stand beside
    that. The test is taken at the plain level α and after every new group: erring in this direction costs
    rollouts, never the result. Between the two thresholds it stays as it is.

    ``min_window`` 0 switches the gate off: open from the start, and never closed.
    """

    def __init__(
        self,
        window: int,
        min_window: int,
        confidence: float,
        graded_on: Literal["informative", "pass_rate"] = "informative",
    ) -> None:
        self.min_window = min_window
        self.graded_on = graded_on
        self.confidence = confidence
        self.graded: deque[Graded] = deque(maxlen=window)
        self.open = min_window == 0
        self._looks = 0
        self._new = 0  # groups graded since the last look

    def add(self, graded: Graded) -> None:
        """Grade one group and let the gate decide. Raises ValueError when a prediction is no probability."""
        for name in ("predicted_informative", "predicted_mean"):
            if not 0 <= getattr(graded, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], found {getattr(graded, name)}")
        self.graded.append(graded)
        if graded.blind:
            return
        self._new += 1
        if self.min_window == 0:
            return
        due = self._looks == 0 or self._new >= self.min_window / 2
        if self.open:
            if self.worst_case(self.min_window) < -NormalDist().inv_cdf(self.confidence):
                self.open = False
        elif due and self.seeing >= self.min_window:
            self._new = 0
            self._looks += 1
            level = (1 - self.confidence) / (self._looks * (self._looks + 1))
            self.open = self.advantage() > NormalDist().inv_cdf(1 - level)

    @property
    def seeing(self) -> int:
        """Groups of the window that the gate goes by: those that are not blind."""
        return sum(not one.blind for one in self.graded)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(predicted p_informative, informative), each (W,) float64, oldest first."""
        return (
            np.array([one.predicted_informative for one in self.graded], dtype=np.float64),
            np.array([one.informative for one in self.graded], dtype=np.float64),
        )

    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """(predicted, realised pass rate), each (W,) float64, oldest first."""
        return (
            np.array([one.predicted_mean for one in self.graded], dtype=np.float64),
            np.array([one.successes / one.trials for one in self.graded], dtype=np.float64),
        )

    def worst_case(self, newest: int) -> float:
        """The advantage over that plausible base rate which is the easiest to beat."""
        recent = [one for one in self.graded if not one.blind][-newest:]
        if self.graded_on == "informative":
            hits, trials = sum(one.informative for one in recent), len(recent)
        else:
            hits, trials = sum(one.successes for one in recent), sum(one.trials for one in recent)
        plausible = wilson_interval(hits, trials)
        return max(self.advantage(newest, base_rate) for base_rate in (None, *plausible))

    def advantage(self, newest: int | None = None, base_rate: float | None = None) -> float:
        """z statistic of base rate's minus estimator's squared error: positive when the estimator is better.
        ``base_rate`` None: the window's own mean of what is predicted.

        Infinite when the differences are all alike and not 0 (a perfect prediction where half are
        informative).
        """
        both = self.arrays() if self.graded_on == "informative" else self.rates()
        seeing_W = np.array([not one.blind for one in self.graded], dtype=bool)
        predicted_W, realised_W = (values[seeing_W][-newest if newest else None :] for values in both)
        constant = realised_W.mean() if base_rate is None else base_rate
        difference_W = (constant - realised_W) ** 2 - (predicted_W - realised_W) ** 2
        mean = float(difference_W.mean())
        if len(difference_W) < 2 or np.abs(difference_W).max() < ROUNDING:
            return 0.0
        if np.ptp(difference_W) < ROUNDING:
            return math.copysign(math.inf, mean)
        return mean / (float(difference_W.std(ddof=1)) / math.sqrt(len(difference_W)))

    def metrics(self) -> dict[str, float]:
        """Figures of the window, and under ``visits_…/`` those of its strata by how often the prompt had been
        visited; what is undefined on the window is left out."""
        predicted_W, informative_W = self.arrays()
        mean_W, rate_W = self.rates()
        visits_W = np.array([one.visits for one in self.graded], dtype=np.int64)
        figures = {
            **quality(predicted_W, informative_W),
            "average_precision": average_precision(predicted_W, informative_W),
            "spearman": spearman(mean_W, rate_W),
            "false_reject_rate": false_reject_rate(predicted_W, informative_W),
            "base_rate": float(informative_W.mean()) if len(informative_W) else math.nan,
            "pass_rate_bias": float((mean_W - rate_W).mean()) if len(informative_W) else math.nan,
            "pass_rate_skill": rate_skill(mean_W, rate_W),
        }
        for label, member_W in by_visits(visits_W):
            if member_W.any():
                stratum = quality(predicted_W[member_W], informative_W[member_W])
                figures[f"visits_{label}/groups"] = float(member_W.sum())
                figures |= {f"visits_{label}/{name}": value for name, value in stratum.items()}
        figures["skill"] = figures["brier_skill" if self.graded_on == "informative" else "pass_rate_skill"]
        defined = {name: value for name, value in figures.items() if not math.isnan(value)}
        return {"groups": float(len(self.graded)), **defined}

    def reliability(self) -> list[dict[str, float]]:
        """Predicted and observed share of informative groups in the window, bin by bin."""
        return reliability(*self.arrays())

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


def quality(predicted_W: np.ndarray, informative_W: np.ndarray) -> dict[str, float]:
    """The figures that are also given for each stratum."""
    return {
        "auroc": auroc(predicted_W, informative_W),
        "brier": brier(predicted_W, informative_W),
        "brier_skill": brier_skill(predicted_W, informative_W),
        "ece": expected_calibration_error(predicted_W, informative_W),
    }
