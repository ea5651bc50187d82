"""What one finished run says: read from its ``summary.json`` and ``metrics.jsonl``, nothing recomputed.

A figure that is undefined in a run (no audit group, say) is None. `comparisons` pairs arms with baselines by
seed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.model.arms import BASELINES
from depo.errors import UserError
from depo.report.statistics import t_interval
from depo.trackers.tracker import Scalar, read_metrics

Row = dict[str, Scalar]

TRACED = {
    "rollouts": "generated/rollouts",
    "effective_groups": "effective_groups",
    "groups": "groups",
    "reward": "reward",
    "active": "selection/active",
    "seconds": "seconds/step",
}
"""What is kept of each step: name in the result, name in metrics.jsonl."""


def run_figures(directory: Path, horizon: int) -> dict[str, Any]:
    """Everything measured in a run that has ended. ``horizon``: training rollouts that arms are compared at.

    Raises UserError when the directory holds no finished run.
    """
    summary, rows = read_finished(directory)
    curve = accuracy_curve(summary, rows)
    groups, rollouts, selection = summary["groups"], summary["rollouts"], summary["selection"]
    return {
        "steps": summary["steps"],
        "rollouts": rollouts["generated"],
        "tokens": summary["tokens"]["generated"],
        "updates": total(rows, "optimizer_steps"),
        "accuracy": {
            "before": curve[0][1] if curve and curve[0][0] == 0 else None,
            "after": curve[-1][1] if curve else None,
            "at_horizon": at(curve, horizon),
            "curve": curve,
        },
        "reward": first_and_last_quarter(rows, "reward"),
        "effective_groups": groups["effective"],
        "effective_ratio": groups["effective_ratio"],
        "rollouts_per_effective_group": groups["rollouts_per_effective_group"],
        "tokens_per_effective_group": groups["tokens_per_effective_group"],
        "uniform": groups["uniform"],
        "saved": rollouts["saved"],
        "saved_interval": rollouts["saved_interval"],
        "audit": {
            name: selection.get(f"calibration/{name}") for name in ("groups", "auroc", "brier_skill", "ece")
        },
        "active_share": mean(rows, "selection/active"),
        "coverage": {
            "seen": summary["prompts"]["seen"],
            "pool": summary["prompts"]["pool"],
            "starvation": selection.get("coverage/starvation"),
        },
        "mismatch_kl": mean(rows, "mismatch_kl"),
        "completion_tokens": mean(rows, "completion_tokens"),
        "seconds": summary["seconds"],
        "trace": [{name: row.get(column) for name, column in TRACED.items()} for row in rows],
    }


def read_finished(directory: Path) -> tuple[dict[str, Any], list[Row]]:
    """Summary and steps of a run that has ended."""
    try:
        summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        return summary, read_metrics(directory / "metrics.jsonl")
    except (OSError, ValueError) as error:
        raise UserError(f"{directory}: no finished run here ({error}); remove it to run it again") from error


def accuracy_curve(summary: dict[str, Any], rows: Sequence[Row]) -> list[list[float]]:
    """[training rollouts generated, held-out accuracy], before training first, in the order of rollouts."""
    points: dict[float, float] = {}
    before, after = summary["eval"]["before"], summary["eval"]["after"]
    if before is not None and before["all"] is not None:
        points[0] = before["all"]
    points |= {
        number(row["generated/rollouts"]): number(row["eval/all"])
        for row in rows
        if row.get("eval/all") is not None
    }
    if after is not None and after["all"] is not None:
        points[summary["rollouts"]["generated"]] = after["all"]
    return [[rollouts, accuracy] for rollouts, accuracy in sorted(points.items())]


def at(curve: Sequence[Sequence[float]], horizon: int) -> float | None:
    """Accuracy at ``horizon`` rollouts, on the straight line between the two evaluations around it: a last
    step with refill rounds ends beyond the horizon. None when the run did not get there."""
    if not curve or curve[-1][0] < horizon:
        return None
    return float(np.interp(horizon, [point[0] for point in curve], [point[1] for point in curve]))


def values_of(rows: Sequence[Row], column: str) -> np.ndarray:
    """The numbers of a column, (S,) float64 over the steps that have one."""
    return np.array([number(row[column]) for row in rows if row.get(column) is not None])


def number(value: Scalar) -> float:
    assert isinstance(value, int | float)
    return float(value)


def mean(rows: Sequence[Row], column: str) -> float | None:
    values_S = values_of(rows, column)
    return float(values_S.mean()) if len(values_S) else None


def total(rows: Sequence[Row], column: str) -> float:
    return float(values_of(rows, column).sum())


def first_and_last_quarter(rows: Sequence[Row], column: str) -> list[float] | None:
    """Means over the first and the last quarter of the steps (one step at least)."""
    values_S = values_of(rows, column)
    if not len(values_S):
        return None
    quarter = max(1, len(values_S) // 4)
    return [float(values_S[:quarter].mean()), float(values_S[-quarter:].mean())]


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
