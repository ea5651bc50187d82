"""The driver's own share of a step: what is neither generation nor update, verification or evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.throughput.processes import measure
from benchmarks.throughput.recipes import live_selection
from benchmarks.throughput.workload import Workload
from depo.recipe.loading import write_resolved
from depo.recipe.schema import Recipe
from depo.trackers.jsonl import read_metrics

PHASES = ("select", "generate", "verify", "estimate", "evaluate")


LONG_STEP = 120.0
"""Seconds of a step at the scale that a share of a sub-second step says nothing about."""


def live_run(workload: Workload, steps: int, warm_up: int, directory: Path) -> dict[str, Any]:
    """depo at the quickstart's sizes with ``hybrid`` and ``thompson``; the first ``warm_up`` steps, in which
    the estimator still knows little, are not counted."""
    directory.mkdir(parents=True)
    workload.write(directory / "workload.json")
    recipe: Recipe = live_selection(workload, steps, warm_up)
    write_resolved(recipe, directory / "recipe.yaml")
    result = measure("depo", "train", directory, workload.threads)
    rows = read_metrics(directory / "run" / "metrics.jsonl")
    return driver_shares(rows[warm_up:], result["stamps"][warm_up - 1 :])


def driver_shares(rows: Sequence[dict[str, Any]], stamps: Sequence[float]) -> dict[str, Any]:
    """Shares of the wall time of the given steps. ``stamps`` (seconds): the end of the step before, then each
    step's end, so that logging counts too.

    ``driver`` is what is left without generation, verification, evaluation and the update as the learner
    measured it; the way to the learner and back is the driver's. ``select`` stands on the critical path.
    The estimator learns while another process updates the policy; ``estimate_hidden`` is how much of
    that time lay behind the update, ``estimate_exposed`` what a step waited for longer than for its update,
    which is part of ``driver``. The critical path holds ``select`` and ``estimate_exposed``.
    """
    wall = stamps[-1] - stamps[0]
    total = {phase: sum(row.get(f"seconds/{phase}", 0.0) for row in rows) for phase in PHASES}
    learner = sum(row.get("seconds", 0.0) for row in rows)
    exposed = sum(max(0.0, row.get("seconds/estimate", 0.0) - row.get("seconds", 0.0)) for row in rows)
    own = wall - total["generate"] - total["verify"] - total["evaluate"] - learner
    steps = len(rows)
    return {
        "steps": steps,
        "step_seconds": wall / steps,
        "selecting_share": sum(row.get("selection/active", 0.0) for row in rows) / steps,
        "groups_per_step": sum(row["groups"] for row in rows) / steps,
        "shares": {
            "generate": total["generate"] / wall,
            "update": learner / wall,
            "verify": total["verify"] / wall,
            "evaluate": total["evaluate"] / wall,
            "driver": own / wall,
            "select": total["select"] / wall,
            "estimate_exposed": exposed / wall,
            "estimate_hidden": (total["estimate"] - exposed) / wall,
        },
        "select_seconds": total["select"] / steps,
        "critical_path_share": (total["select"] + exposed) / wall,
        "critical_path_share_long_step": (total["select"] + exposed) / steps / LONG_STEP,
    }
