"""rollouts/*.parquet: what pandas reads back, which fields are null when, and what a resume removes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from depo.reward.base import Score, unscorable
from depo.trackers.rollouts import SCHEMA, ParquetRollouts
from depo.trackers.tracker import StepRecord
from depo.types import Group, Origin, Outcome, Pick, Prompt, Rollout

NAN = float("nan")


def rollout(index: int, tokens: list[int]) -> Rollout:
    return Rollout(
        key="k",
        index=index,
        seed=2**62 + index,
        token_ids=np.array(tokens, dtype=np.int32),
        logprobs=np.array([-0.5 * token for token in tokens], dtype=np.float32),
        finish_reason="stop",
        policy_version=6,
    )


def prompt(key: str) -> Prompt:
    return Prompt(key=key, text="1+1=", token_ids=(3, 4), reference="2")


def trained_group() -> Group:
    """Three rollouts of an audit pick: right, wrong, unscorable."""
    return Group(
        pick=Pick(prompt("aa"), Origin.AUDIT, "thompson", True, 0.25, 0.4, 0.8),
        rollouts=[rollout(0, [1, 2]), rollout(1, [3]), rollout(2, [4, 5, 6])],
        scores=[
            Score(1.0, True, components={"math": 1.0, "overlong": -0.5}),
            Score(0.0, False, unparseable=True),
            unscorable("timeout after 5 s"),
        ],
        completions=["2", "", "ü\n🙂"],
        outcome=Outcome.TRAINED,
        advantages=np.array([1.0, -1.0, 0.0], dtype=np.float32),
        learner_logprobs=[
            np.array([-0.5, -1.25], dtype=np.float32),
            np.array([-1.5], dtype=np.float32),
            None,
        ],
    )


def dropped_group() -> Group:
    """A zero-variance group, chosen without any estimate."""
    return Group(
        pick=Pick(prompt("bb"), Origin.SELECTED, "uniform", True, NAN, NAN, NAN),
        rollouts=[rollout(0, [1]), rollout(1, [1])],
        scores=[Score(0.0, False), Score(0.0, False)],
        completions=["x", "x"],
        outcome=Outcome.ZERO_VARIANCE,
    )


def read_back(tmp_path: Path) -> pd.DataFrame:
    ParquetRollouts(tmp_path).write(42, [trained_group(), dropped_group()])
    return pd.read_parquet(tmp_path / "rollouts" / "step_000042.parquet")


def test_every_rollout_is_a_row_with_what_was_sampled(tmp_path: Path) -> None:
    frame = read_back(tmp_path)
    assert frame["step"].tolist() == [42] * 5
    assert frame["prompt_key"].tolist() == ["aa"] * 3 + ["bb"] * 2
    assert frame["sample_index"].tolist() == [0, 1, 2, 0, 1]
    assert frame["seed"].tolist() == [2**62, 2**62 + 1, 2**62 + 2, 2**62, 2**62 + 1]
    assert frame["completion"][2] == "ü\n🙂"
    assert [tokens.tolist() for tokens in frame["token_ids"]] == [[1, 2], [3], [4, 5, 6], [1], [1]]
    assert frame["engine_logprobs"][2].tolist() == [-2.0, -2.5, -3.0]
    assert frame["learner_logprobs"][0].tolist() == [-0.5, -1.25]
    assert frame["policy_version"].unique().tolist() == [6]


def test_outcome_and_verdict_tell_wrong_unparseable_and_unscorable_apart(tmp_path: Path) -> None:
    frame = read_back(tmp_path)
    assert frame["outcome"].tolist() == ["trained", "trained", "unscorable", "zero_variance", "zero_variance"]
    assert frame["origin"].tolist() == ["audit"] * 3 + ["selected"] * 2
    assert frame["correct"].tolist() == [True, False, None, False, False]
    assert frame["unparseable"].tolist() == [False, True, False, False, False]
    assert frame["detail"][2] == "timeout after 5 s"
    assert frame["value"].isna().tolist() == [False, False, True, False, False]
    assert dict(frame["components"][0]) == {"math": 1.0, "overlong": -0.5}


def test_what_does_not_apply_is_null(tmp_path: Path) -> None:
    read_back(tmp_path)
    table = pq.read_table(tmp_path / "rollouts" / "step_000042.parquet")
    nulls = {name: table[name].is_null().to_pylist() for name in table.column_names}
    never_trained, never_predicted = [False] * 3 + [True] * 2, [False] * 3 + [True] * 2
    assert nulls["advantage"] == never_trained
    assert nulls["learner_logprobs"] == [False, False, True, True, True]
    for name in ("propensity", "predicted_mean", "predicted_informative"):
        assert nulls[name] == never_predicted


def test_files_of_all_steps_have_one_schema_even_without_rollouts(tmp_path: Path) -> None:
    log = ParquetRollouts(tmp_path)
    log.write(1, [trained_group()])
    log.write(2, [dropped_group()])
    log.write(3, [])
    schemas = [pq.read_schema(file) for file in sorted((tmp_path / "rollouts").glob("*.parquet"))]
    assert len(schemas) == 3
    assert all(schema.equals(SCHEMA, check_metadata=False) for schema in schemas)
    assert schemas[0].metadata[b"depo_schema_version"] == b"2"
    assert len(pd.read_parquet(tmp_path / "rollouts")) == 5  # the whole directory is one data set


def test_a_resume_removes_later_steps_and_unfinished_files(tmp_path: Path) -> None:
    log = ParquetRollouts(tmp_path)
    for step in (9, 10, 11):
        log.write(step, [trained_group()])
    (tmp_path / "rollouts" / ".step_000012.parquet.partial").write_bytes(b"PAR1")
    log.truncate_after(9)
    assert [file.name for file in (tmp_path / "rollouts").iterdir()] == ["step_000009.parquet"]


def test_truncating_where_nothing_was_written_is_fine(tmp_path: Path) -> None:
    ParquetRollouts(tmp_path / "none").truncate_after(0)


def test_switched_off_it_writes_nothing_and_still_forgets_later_steps(tmp_path: Path) -> None:
    on, off = ParquetRollouts(tmp_path), ParquetRollouts(tmp_path, write=False)
    for step in (1, 2):
        on.step(StepRecord(step, {}, [trained_group()], {}))
    off.truncate_after(1)
    off.step(StepRecord(2, {}, [trained_group()], {}))
    assert [file.name for file in (tmp_path / "rollouts").iterdir()] == ["step_000001.parquet"]
