"""Arms against the baselines at equal rollouts, paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.model.arms import BASELINES
from depo.report.statistics import t_interval


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
            differences = [reached[arm][seed] - reached[baseline][seed] for seed in seeds]
            mean, *limits = t_interval(differences).to_json()
            found.append(
                {
                    "arm": arm,
                    "baseline": baseline,
                    "seeds": seeds,
                    "differences": differences,
                    "mean": mean,
                    "interval": None if None in limits else limits,
                }
            )
    return found
