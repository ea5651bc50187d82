"""rollouts/step_000042.parquet: every rollout of a step, one row each, with a schema fixed from the start.

Null means "does not apply": no advantage where a group was not trained on, no verdict where verification
failed, no prediction where nothing was predicted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from depo.files import file_aside
from depo.types import Group

if TYPE_CHECKING:
    from depo.trackers.tracker import StepRecord

SCHEMA_VERSION = 2

SCHEMA = pa.schema(
    [
        pa.field("step", pa.int32(), nullable=False),
        pa.field("prompt_key", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("reference", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("policy_version", pa.int32(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("propensity", pa.float64()),
        pa.field("selector", pa.string(), nullable=False),
        pa.field("predicted_mean", pa.float64()),
        pa.field("predicted_sd", pa.float64()),
        pa.field("predicted_informative", pa.float64()),
        pa.field("completion", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("engine_logprobs", pa.list_(pa.float32()), nullable=False),
        pa.field("learner_logprobs", pa.list_(pa.float32())),
        pa.field("value", pa.float64()),
        pa.field("correct", pa.bool_()),
        pa.field("unparseable", pa.bool_(), nullable=False),
        pa.field("components", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("advantage", pa.float32()),
    ],
    metadata={"depo_schema_version": str(SCHEMA_VERSION)},
)


class ParquetRollouts:
    """The tracker: one file a step in ``rollouts/``. With ``write`` false it writes none, and still removes
    those of steps that a resumed run takes anew."""

    def __init__(self, run_dir: Path, write: bool = True) -> None:
        self.directory = run_dir / "rollouts"
        self.writes = write

    def step(self, record: StepRecord) -> None:
        if self.writes:
            self.write(record.step, record.groups)

    def write(self, step: int, groups: Sequence[Group]) -> None:
        """All rollouts of ``groups``, whose outcomes must be assigned. A file is whole or absent; it replaces
        what an earlier attempt at this step wrote."""
        rows = [row for group in groups for row in rollout_rows(step, group)]
        with file_aside(self.directory / f"step_{step:06d}.parquet") as aside:
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), aside, compression="zstd")

    def truncate_after(self, step: int) -> list[str]:
        """Remove the files of later steps, and those a kill left half written."""
        kept = {int(file.stem.removeprefix("step_")): file for file in self.directory.glob("step_*.parquet")}
        for later in [one for one in kept if one > step]:
            kept.pop(later).unlink()
        for file in self.directory.glob(".step_*.parquet.partial"):
            file.unlink()
        return missing_steps(self.directory, kept, step) if self.writes else []

    def close(self) -> None:
        """Each file was written and closed."""


def rollout_rows(step: int, group: Group) -> Iterator[dict[str, Any]]:
    """The rows of one group, in sample order."""
    pick = group.pick
    for index, (rollout, score) in enumerate(zip(group.rollouts, group.scores, strict=True)):
        learner_logprobs = None if group.learner_logprobs is None else group.learner_logprobs[index]
        yield {
            "step": step,
            "prompt_key": pick.prompt.key,
            "prompt": pick.prompt.text,
            "reference": pick.prompt.reference,
            "sample_index": rollout.index,
            "seed": rollout.seed,
            "policy_version": rollout.policy_version,
            "origin": str(pick.origin),
            "outcome": str(group.outcome_of(index)),
            "propensity": null_if_nan(pick.propensity),
            "selector": pick.selector,
            "predicted_mean": null_if_nan(pick.predicted_mean),
            "predicted_sd": null_if_nan(pick.predicted_sd),
            "predicted_informative": null_if_nan(pick.predicted_informative),
            "completion": group.completions[index],
            "finish_reason": rollout.finish_reason,
            "token_ids": rollout.token_ids,
            "engine_logprobs": rollout.logprobs,
            "learner_logprobs": learner_logprobs,
            "value": null_if_nan(score.value),
            "correct": score.correct,
            "unparseable": score.unparseable,
            "components": list(score.components.items()),
            "detail": score.detail,
            "advantage": None if group.advantages is None else float(group.advantages[index]),
        }


def null_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def missing_steps(where: Path, kept: Collection[int], step: int) -> list[str]:
    """A line that names the steps up to ``step`` that are not in ``kept``; none where all are there."""
    missing = sorted(set(range(1, step + 1)) - set(kept))
    if not missing:
        return []
    shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
    return [f"{where}: {len(missing)} of {step} steps are missing ({shown}); the run goes on without them"]
