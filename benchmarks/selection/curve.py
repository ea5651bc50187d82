"""One run as a curve: held-out accuracy over what it has cost so far.

Shapes: K evaluations, in order; the first is before training, at cost 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from depo.files import read_json
from depo.trackers.jsonl import read_metrics

COSTS = ("rollouts", "tokens", "updates")


@dataclass(frozen=True)
class Curve:
    """``accuracy_K``: exact accuracy on all held-out prompts; ``cost_K``: by unit of ``COSTS``."""

    accuracy_K: np.ndarray
    cost_K: Mapping[str, np.ndarray]

    @property
    def smooth_K(self) -> np.ndarray:
        """The nearest curve that never falls (least squares)."""
        return isotonic_regression(self.accuracy_K).x

    @property
    def last(self) -> float:
        """Accuracy at the end as it was measured."""
        return float(self.accuracy_K[-1])

    def at(self, cost: float, unit: str = "rollouts") -> float:
        """Smoothed accuracy after ``cost``, linear between evaluations; the last one beyond its end."""
        return float(np.interp(cost, self.cost_K[unit], self.smooth_K))

    def cost_of(self, accuracy: float, unit: str = "rollouts") -> float | None:
        """What it took to reach an accuracy, linear between evaluations; None when it was not reached."""
        smooth_K, cost_K = self.smooth_K, self.cost_K[unit]
        reached = np.flatnonzero(smooth_K >= accuracy)
        if not len(reached):
            return None
        k = int(reached[0])
        if k == 0:
            return float(cost_K[0])
        share = (accuracy - smooth_K[k - 1]) / (smooth_K[k] - smooth_K[k - 1])
        return float(cost_K[k - 1] + share * (cost_K[k] - cost_K[k - 1]))

    def to_json(self) -> dict[str, list[float]]:
        costs = {unit: [int(value) for value in self.cost_K[unit]] for unit in COSTS}
        return {"accuracy": [round(float(value), 5) for value in self.accuracy_K], **costs}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Curve:
        costs = {unit: np.array(value[unit], dtype=float) for unit in COSTS}
        return cls(np.array(value["accuracy"], dtype=float), costs)


def read_curve(run: Path) -> Curve:
    """From a finished run directory. ``updates`` are optimizer steps."""
    summary, rows = read_json(run / "summary.json"), read_metrics(run / "metrics.jsonl")
    points = [(summary["eval"]["before"]["all"], 0, 0, 0)]
    updates = 0
    for row in rows:
        updates += int(row.get("optimizer_steps") or 0)
        if row.get("eval/all") is not None:
            points.append((row["eval/all"], *spent(row), updates))
    points.append((summary["eval"]["after"]["all"], *spent(rows[-1]), updates))
    accuracy_K, *costs = np.array(points, dtype=float).T
    return Curve(accuracy_K, dict(zip(COSTS, costs, strict=True)))


def spent(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """Rollouts and tokens generated up to a row of metrics.jsonl."""
    return row["generated/rollouts"], row["generated/tokens"]
