"""Whole steps: generate, verify, update. One run of either side, as figures that can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.throughput.processes import Side, measure
from benchmarks.throughput.recipes import against_trl
from benchmarks.throughput.workload import GROUP_SIZE, Workload
from depo.recipe.loading import write_resolved
from depo.trackers.jsonl import read_metrics


def run_side(side: Side, workload: Workload, directory: Path) -> dict[str, Any]:
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
