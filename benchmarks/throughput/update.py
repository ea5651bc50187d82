"""The update alone, on one batch whose completion lengths spread 1:8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.throughput.processes import Side, measure
from benchmarks.throughput.workload import Workload


def run_side(side: Side, workload: Workload, directory: Path) -> dict[str, Any]:
    """Updates of one side in an empty ``directory``; the first warms up and is not counted. Tokens are real
    ones, of prompts and completions; padding does not count."""
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
