"""What is measured: whole steps, the update alone, the driver's own share of a step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.throughput.processes import Side, measure
from benchmarks.throughput.workload import GROUP_SIZE, Workload, against_trl, live_selection
from depo.recipe.loading import write_resolved
from depo.report.statistics import ratio_interval
from depo.trackers.tracker import read_metrics


def whole_steps(side: Side, workload: Workload, directory: Path) -> dict[str, Any]:
    """One end-to-end run in an empty ``directory``. The first step warms up and is not counted.

    Seconds are means over the counted steps. ``update_seconds`` is, for depo, what the driver waits for the
    update, the way to the learner's process included; for TRL, the step without generating and scoring.
    """
    directory.mkdir(parents=True)
    workload.write(directory / "workload.json")
    if side == "depo":
        write_resolved(against_trl(workload), directory / "recipe.yaml")
    result = measure(side, "train", directory, workload.threads)
    if side == "depo":
        phases = depo_phases(read_metrics(directory / "run" / "metrics.jsonl"), result["prompt_tokens"])
    else:
        phases = {key: result[key] for key in ("generate_seconds", "update_seconds", "tokens")}
    steps = len(result["stamps"]) - 1
    seconds = result["stamps"][-1] - result["stamps"][0]
    means = {name: sum(values[1:]) / steps for name, values in phases.items()}
    return {
        "samples_per_second": workload.prompts * GROUP_SIZE * steps / seconds,
        "learner_tokens_per_second": means["tokens"] / means["update_seconds"],
        "step_seconds": seconds / steps,
        "generate_seconds": means["generate_seconds"],
        "update_seconds": means["update_seconds"],
        "tokens_per_step": means["tokens"],
        "startup_seconds": result["begun"] - result["started"],
        "peak_memory_mib": result["peak_memory_mib"],
        "prompt_tokens": result["prompt_tokens"],
    }


def depo_phases(rows: list[dict[str, Any]], prompt_tokens: dict[str, list[int]]) -> dict[str, list[float]]:
    """Per step. Tokens are counted as TRL's are: prompt and completion of every row. A step draws its prompts
    uniformly, so they have the pool's mean length."""
    prompt = sum(map(len, prompt_tokens.values())) / len(prompt_tokens)
    return {
        "generate_seconds": [row["seconds/generate"] + row["seconds/verify"] for row in rows],
        "update_seconds": [row["seconds/update"] for row in rows],
        "tokens": [row["tokens"] + prompt * row["sequences"] for row in rows],
    }


def updates(side: Side, workload: Workload, directory: Path) -> dict[str, Any]:
    """Updates of one side in an empty ``directory``, on one batch whose completion lengths spread 1:8; the
    first warms up and is not counted. Tokens are real ones, of prompts and completions; padding does not
    count."""
    directory.mkdir(parents=True)
    workload.write(directory / "workload.json")
    result = measure(side, "update", directory, workload.threads)
    return {
        "learner_tokens_per_second": result["tokens"] * len(result["seconds"]) / sum(result["seconds"]),
        "update_seconds": sum(result["seconds"]) / len(result["seconds"]),
        "padding_share": result["padding_share"],
        "peak_memory_mib": result["peak_memory_mib"],
        "loss": result["loss"],
    }


def agreement(depo: Path, trl: Path) -> dict[str, float]:
    """Of the two sides' gradients of the first update, from what they left in their directories: the cosine
    of the angle between them, and the difference of their norms, relative to TRL's."""
    product = depo_square = trl_square = 0.0
    with np.load(depo / "gradient.npz") as ours, np.load(trl / "gradient.npz") as theirs:
        if set(ours.files) != set(theirs.files):
            odd = sorted(set(ours.files) ^ set(theirs.files))
            raise RuntimeError(f"the two sides train different parameters: {odd[0]}")
        for name in ours.files:
            our, their = ours[name].astype(np.float64).ravel(), theirs[name].astype(np.float64).ravel()
            product += float(our @ their)
            depo_square += float(our @ our)
            trl_square += float(their @ their)
    return {
        "cosine": float(product / np.sqrt(depo_square * trl_square)),
        "norm_difference": float(abs(np.sqrt(depo_square / trl_square) - 1)),
    }


PHASES = ("select", "generate", "verify", "estimate", "evaluate")

LONG_STEP = 120.0
"""Seconds of a step at the scale that a share of a sub-second step says nothing about."""


def live_run(workload: Workload, steps: int, warm_up: int, directory: Path) -> dict[str, Any]:
    """depo at the quickstart's sizes with ``hybrid`` and ``thompson``; the first ``warm_up`` steps, in which
    the estimator still knows little, are not counted."""
    directory.mkdir(parents=True)
    workload.write(directory / "workload.json")
    write_resolved(live_selection(workload, steps, warm_up), directory / "recipe.yaml")
    result = measure("depo", "train", directory, workload.threads)
    rows = read_metrics(directory / "run" / "metrics.jsonl")
    return driver_shares(rows[warm_up:], result["stamps"][warm_up - 1 :])


def driver_shares(rows: Sequence[dict[str, Any]], stamps: Sequence[float]) -> dict[str, Any]:
    """Shares of the wall time of the given steps. ``stamps`` (seconds): the end of the step before, then each
    step's end: logging counts too.

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


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "min": float(min(values)), "max": float(max(values))}


def paired_ratio(over: Sequence[float], under: Sequence[float]) -> dict[str, float | None]:
    """Geometric mean of over / under, pair by pair, with Student's t interval on the logarithms.

    A single pair has no interval: ``low`` and ``high`` are None then.
    """
    ratios = (np.asarray(over, dtype=float) / np.asarray(under, dtype=float)).tolist()
    mean, low, high = ratio_interval(ratios).to_json()
    return {"geometric_mean": mean, "low": low, "high": high}
