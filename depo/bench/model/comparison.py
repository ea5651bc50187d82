"""Arms against the baselines at equal rollouts, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from depo.bench.model.arms import BASELINES

CONFIDENCE = 0.95


def comparisons(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Difference in held-out accuracy at the horizon, each arm minus each baseline, over the seeds that both
    finished. No row where no seed has both."""
    reached: dict[str, dict[int, float]] = {}
    for run in runs:
        if run["status"] == "done" and run["figures"]["accuracy"]["at_horizon"] is not None:
            reached.setdefault(run["arm"], {})[run["seed"]] = run["figures"]["accuracy"]["at_horizon"]
    found = []
    for baseline in BASELINES:
        for arm in reached:
            seeds = sorted(reached[arm].keys() & reached.get(baseline, {}).keys())
            redundant = arm in BASELINES and BASELINES.index(arm) <= BASELINES.index(baseline)
            if redundant or not seeds:
                continue
            differences_S = np.array([reached[arm][seed] - reached[baseline][seed] for seed in seeds])
            found.append(
                {
                    "arm": arm,
                    "baseline": baseline,
                    "seeds": seeds,
                    "differences": differences_S.tolist(),
                    "mean": float(differences_S.mean()),
                    "interval": t_interval(differences_S),
                }
            )
    return found


def t_interval(values_S: np.ndarray) -> list[float] | None:
    """Student's interval of the mean over S seeds; None for fewer than two."""
    if len(values_S) < 2:
        return None
    error = float(values_S.std(ddof=1)) / math.sqrt(len(values_S))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values_S) - 1)) * error
    centre = float(values_S.mean())
    return [centre - half, centre + half]
