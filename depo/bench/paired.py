"""Paired comparison over seeds: Student's t interval of the mean difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence limits; the limits are NaN with fewer than two values."""

    mean: float
    low: float
    high: float

    def to_json(self) -> list[float | None]:
        return [value if math.isfinite(value) else None for value in (self.mean, self.low, self.high)]


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Of the mean of independent values, e.g. one difference a seed."""
    values_S = np.asarray(values, dtype=float)
    mean = float(values_S.mean())
    if len(values_S) < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.5 + confidence / 2, len(values_S) - 1) * stats.sem(values_S))
    return Interval(mean, mean - half, mean + half)


def ratio_interval(ratios: Sequence[float], confidence: float = 0.95) -> Interval:
    """Geometric mean of positive ratios, with the t interval of their logarithms."""
    logs = t_interval(np.log(np.asarray(ratios, dtype=float)).tolist(), confidence)
    return Interval(math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high))
