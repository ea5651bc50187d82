"""A trace out of a depo run: what the run itself selected, audited and observed.

Nothing is known about prompts that the run did not pick, so another selector's picks cannot be answered:
only predictions are graded, and those on the groups that were drawn uniformly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from depo.data import load_saved
from depo.errors import UserError
from depo.recipe.keys import parse_yaml
from depo.replay.trace import MISSING, Trace
from depo.trackers.tracker import sound_rows
from depo.types import Origin, Prompt

COLUMNS = ("step", "prompt_key", "prompt", "origin", "propensity", "selector", "correct")

LOGPROBS = "engine_logprobs"

UNIFORM = "uniform"  # the selector's name in the log wherever a prompt was drawn uniformly

TRAINING = (Origin.SELECTED, Origin.AUDIT, Origin.REFILL)

CELL_BYTES = 41  # of a prompt at a step, over all matrices of a run's trace

LARGEST_TRACE = 8 * 2**30  # bytes


@dataclass(slots=True)
class Recorded:
    """One group of the log: k right of n with a verdict, of ``rollouts`` in all."""

    prompt: str
    origin: str
    selector: str
    propensity: float
    k: int = 0
    n: int = 0
    rollouts: int = 0
    logprobs: float = 0.0  # summed over ``tokens``
    tokens: int = 0


def is_run(path: Path) -> bool:
    return (path / "rollouts").is_dir()


def read_run(path: Path) -> tuple[Trace, int]:
    """The trace of a run directory, and its group size: the rollouts that a group has (the most, where
    they differ). Raises UserError when the directory holds no rollouts or files of another kind."""
    files = sorted((path / "rollouts").glob("step_*.parquet"))
    if not files:
        raise UserError(f"{path}: no rollouts/step_*.parquet, so this is not a depo run with rollouts logged")
    groups: dict[tuple[int, str], Recorded] = {}
    for file in files:
        try:
            add_rollouts(groups, pq.read_table(file, columns=[*COLUMNS, LOGPROBS]))
        except (OSError, pa.ArrowException, KeyError) as error:
            raise UserError(f"{file}: not a rollout log: {str(error).splitlines()[0]}") from error
    if not groups:
        raise UserError(f"{path}: the rollout log holds no training rollouts")
    return trace_of(path, groups), max(group.rollouts for group in groups.values())


def add_rollouts(groups: dict[tuple[int, str], Recorded], table: pa.Table) -> None:
    """Add the rows of one file to their groups. Raises KeyError or ArrowInvalid for a table without them."""
    lengths_R = pc.list_value_length(table[LOGPROBS]).to_numpy()
    tokens = pc.list_flatten(table[LOGPROBS]).to_numpy()
    rows_of_tokens = np.repeat(np.arange(len(lengths_R)), lengths_R)
    logprobs_R = np.bincount(rows_of_tokens, weights=tokens, minlength=len(lengths_R))
    rows = table.select(list(COLUMNS)).to_pylist()
    for row, length, logprobs in zip(rows, lengths_R, logprobs_R, strict=True):
        if row["origin"] not in TRAINING:
            continue
        propensity = np.nan if row["propensity"] is None else row["propensity"]
        group = groups.setdefault(
            (row["step"], row["prompt_key"]),
            Recorded(row["prompt"], row["origin"], row["selector"], propensity),
        )
        group.rollouts += 1
        group.n += row["correct"] is not None
        group.k += row["correct"] is True
        group.tokens += int(length)
        group.logprobs += float(logprobs)


def trace_of(path: Path, groups: Mapping[tuple[int, str], Recorded]) -> Trace:
    """Groups by (step, prompt key) as matrices; a prompt is picked at most once in a step. Raises UserError
    when they would not fit into memory."""
    steps = sorted({step for step, _ in groups})
    texts = {key: group.prompt for (_, key), group in groups.items()}
    require_fitting(path, len(texts), len(steps))
    priors, notes = priors_of(path)
    kl_T, garbage = kl_before(path, steps)
    column = {step: t for t, step in enumerate(steps)}
    row = {key: i for i, key in enumerate(texts)}
    shape = (len(row), len(steps))
    successes_NT, trials_NT = np.full(shape, MISSING, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    graded_NT = np.zeros(shape, dtype=bool)
    origin_NT = np.full(shape, "", dtype=object)
    propensity_NT, logprob_NT = np.full(shape, np.nan), np.full(shape, np.nan)
    for (step, key), group in groups.items():
        cell = row[key], column[step]
        trials_NT[cell] = group.n
        if group.n:
            successes_NT[cell] = group.k
        graded_NT[cell] = group.selector == UNIFORM and group.n >= 2
        origin_NT[cell] = group.origin
        propensity_NT[cell] = group.propensity
        logprob_NT[cell] = group.logprobs / max(group.tokens, 1)
    return Trace(
        source=str(path),
        kind="run",
        prompts=tuple(Prompt(key, text, (), "", prior=priors.get(key)) for key, text in texts.items()),
        successes_NT=successes_NT,
        trials_NT=trials_NT,
        graded_NT=graded_NT,
        steps_T=np.array(steps),
        kl_T=kl_T,
        origin_NT=origin_NT,
        propensity_NT=propensity_NT,
        logprob_NT=logprob_NT,
        notes=(
            f"graded on the {int(graded_NT.sum())} of {len(groups)} groups that the run drew uniformly",
            "censored replay left out: a run shows only what it picked, not what another selector would have",
            *notes,
            *garbage,
            *policy_notes(path),
        ),
    )


def require_fitting(path: Path, prompts: int, steps: int) -> None:
    needed = prompts * steps * CELL_BYTES
    if needed > LARGEST_TRACE:
        raise UserError(
            f"{path}: {prompts:,} prompts at {steps:,} steps take {needed / 2**30:,.1f} GiB to replay, more "
            f"than {LARGEST_TRACE // 2**30}; replay a copy with fewer of its rollouts/step_*.parquet"
        )


def priors_of(path: Path) -> tuple[dict[str, float | None], list[str]]:
    """The pass rates that the run's estimator was given with the prompts, by key, and a note where the run
    directory does not say."""
    stored = path / "prompts.parquet"
    if not stored.is_file():
        return {}, [
            "prompts.parquet is missing: estimators see no pass rates that the data set brought along"
        ]
    return {prompt.key: prompt.prior for prompt in load_saved(stored)}, []


def policy_notes(path: Path) -> list[str]:
    """A note where the run's estimator was shown the policy, which the rollout log does not hold. The recipe
    is not validated: a run of an earlier version may have other keys."""
    stored = path / "recipe.yaml"
    recipe = parse_yaml(stored.read_text(encoding="utf-8"), str(stored)) if stored.is_file() else None
    recipe = recipe if isinstance(recipe, dict) else {}
    estimator, selection = (
        block if isinstance(block, dict) else {}
        for block in (recipe.get("estimator"), recipe.get("selection"))
    )
    hybrid = estimator.get("type") == "hybrid"
    probe = selection.get("prefill_probe")
    values = {
        "prefill_probe": hybrid if probe == "auto" else probe,
        # As earlier versions had them.
        "answer_rescoring": selection.get("answer_rescoring"),
        "features": estimator.get("features"),
        "recall": estimator.get("recall"),
    }
    asked = [f"{name}: {value}" for name, value in values.items() if value not in (None, "none", 0)]
    if not asked:
        return []
    return [
        f"the run's estimator was also shown the policy's side ({', '.join(asked)}): that is not in the "
        "rollout log, so that it knows less here than it did in the run"
    ]


def kl_before(path: Path, steps: list[int]) -> tuple[np.ndarray, list[str]]:
    """KL travelled before each step (nats), as the loop adds it up from ``policy_kl`` of metrics.jsonl; and a
    note where lines of that are no rows."""
    log = path / "metrics.jsonl"
    if not log.is_file():
        return np.zeros(len(steps)), []
    rows, garbage = sound_rows(log)
    kl_of = {row["step"]: float(row.get("policy_kl") or 0.0) for row in rows}
    logged = sorted(kl_of)
    travelled = np.cumsum([0.0, *(kl_of[step] for step in logged)])
    notes = [f"{log}: {len(garbage)} lines are not rows of metrics: their KL is left out"] if garbage else []
    return travelled[np.searchsorted(logged, steps)], notes
