"""Spread over repeats, and paired ratios with an interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "min": float(min(values)), "max": float(max(values))}


def paired_ratio(over: Sequence[float], under: Sequence[float]) -> dict[str, float | None]:
    """Geometric mean of over / under, pair by pair, with Student's t interval on the logarithms.

    A single pair has no interval: ``low`` and ``high`` are None then.
    """
    logs = np.log(np.asarray(over, dtype=float) / np.asarray(under, dtype=float))
    mean = float(logs.mean())
    low = high = None
    if len(logs) > 1:
        reach = float(stats.t.ppf((1 + LEVEL) / 2, len(logs) - 1) * stats.sem(logs))
        low, high = float(np.exp(mean - reach)), float(np.exp(mean + reach))
    return {"geometric_mean": float(np.exp(mean)), "low": low, "high": high}
