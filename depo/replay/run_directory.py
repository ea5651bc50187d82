"""A trace out of a depo run: what the run itself selected, audited and observed.

Nothing is known about prompts that the run did not pick, so another selector's picks cannot be answered:
only predictions are graded, and those on the groups that were drawn uniformly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from depo.errors import UserError
from depo.replay.trace import MISSING, Trace
from depo.tracking.metrics_log import read_metrics
from depo.types import Origin, Prompt

COLUMNS = ("step", "prompt_key", "prompt", "origin", "propensity", "selector", "correct")
UNIFORM = "uniform"  # the selector's name in the log wherever a prompt was drawn uniformly
TRAINING = (Origin.SELECTED, Origin.AUDIT, Origin.REFILL)


def is_run(path: Path) -> bool:
    return (path / "rollouts").is_dir()


def read_run(path: Path) -> tuple[Trace, int]:
    """The trace of a run directory, and its group size: the rollouts that a group has (the most, where
    they differ). Raises UserError when the directory holds no rollouts or files of another kind."""
    files = sorted((path / "rollouts").glob("step_*.parquet"))
    if not files:
        raise UserError(f"{path}: no rollouts/step_*.parquet, so this is not a depo run with rollouts logged")
    groups: dict[tuple[int, str], dict[str, object]] = {}
    for file in files:
        try:
            rows = pq.read_table(file, columns=list(COLUMNS)).to_pylist()
        except (pa.ArrowInvalid, KeyError) as error:
            raise UserError(f"{file}: not a rollout log: {str(error).splitlines()[0]}") from error
        for row in rows:
            if row["origin"] in TRAINING:
                group = groups.setdefault((row["step"], row["prompt_key"]), dict(row, k=0, n=0, size=0))
                group["size"] += 1  # type: ignore[operator]
                group["n"] += row["correct"] is not None  # type: ignore[operator]
                group["k"] += row["correct"] is True  # type: ignore[operator]
    if not groups:
        raise UserError(f"{path}: the rollout log holds no training rollouts")
    return trace_of(path, groups), max(int(group["size"]) for group in groups.values())  # type: ignore[call-overload]


def trace_of(path: Path, groups: Mapping[tuple[int, str], Mapping[str, object]]) -> Trace:
    """Groups by (step, prompt key) as matrices; a prompt is picked at most once in a step."""
    steps = sorted({step for step, _ in groups})
    texts = {key: str(group["prompt"]) for (_, key), group in groups.items()}
    column = {step: t for t, step in enumerate(steps)}
    row = {key: i for i, key in enumerate(texts)}
    shape = (len(row), len(steps))
    successes_NT, trials_NT = np.full(shape, MISSING, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    graded_NT = np.zeros(shape, dtype=bool)
    origin_NT = np.full(shape, "", dtype=object)
    propensity_NT = np.full(shape, np.nan)
    for (step, key), group in groups.items():
        cell = row[key], column[step]
        trials_NT[cell] = group["n"]
        if group["n"]:
            successes_NT[cell] = group["k"]
        graded_NT[cell] = group["selector"] == UNIFORM and trials_NT[cell] >= 2
        origin_NT[cell] = group["origin"]
        if group["propensity"] is not None:
            propensity_NT[cell] = group["propensity"]
    return Trace(
        source=str(path),
        kind="run",
        prompts=tuple(Prompt(key, text, (), "") for key, text in texts.items()),
        successes_NT=successes_NT,
        trials_NT=trials_NT,
        graded_NT=graded_NT,
        steps_T=np.array(steps),
        kl_T=kl_before(path, steps),
        origin_NT=origin_NT,
        propensity_NT=propensity_NT,
        notes=(
            f"graded on the {int(graded_NT.sum())} of {len(groups)} groups that the run drew uniformly",
            "censored replay left out: a run shows only what it picked, not what another selector would have",
        ),
    )


def kl_before(path: Path, steps: list[int]) -> np.ndarray:
    """KL travelled before each step (nats), as the loop adds it up from ``policy_kl`` of metrics.jsonl."""
    log = path / "metrics.jsonl"
    if not log.is_file():
        return np.zeros(len(steps))
    kl_of = {int(row["step"] or 0): float(row.get("policy_kl") or 0.0) for row in read_metrics(log)}
    return np.array([sum(kl for other, kl in kl_of.items() if other < step) for step in steps])
