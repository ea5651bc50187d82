"""Spread over repeats, and paired ratios with an interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depo.report.statistics import ratio_interval


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "min": float(min(values)), "max": float(max(values))}


def paired_ratio(over: Sequence[float], under: Sequence[float]) -> dict[str, float | None]:
    """Geometric mean of over / under, pair by pair, with Student's t interval on the logarithms.

    A single pair has no interval: ``low`` and ``high`` are None then.
    """
    ratios = (np.asarray(over, dtype=float) / np.asarray(under, dtype=float)).tolist()
    mean, low, high = ratio_interval(ratios).to_json()
    return {"geometric_mean": mean, "low": low, "high": high}
