"""metrics.jsonl: durable rows, valid JSON, and what a resume does to them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from depo.trackers.rollouts import ParquetRollouts
from depo.trackers.tracker import MetricsLog, read_metrics


def filled(path: Path, steps: int) -> MetricsLog:
    log = MetricsLog(path)
    for step in range(1, steps + 1):
        log.write({"step": step, "reward": step / 10})
    return log


def test_rows_are_readable_by_pandas_in_order(tmp_path: Path) -> None:
    filled(tmp_path / "metrics.jsonl", 3)
    frame = pd.read_json(tmp_path / "metrics.jsonl", lines=True)
    assert frame["step"].tolist() == [1, 2, 3]
    assert frame["reward"].tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_what_is_not_finite_becomes_null_and_numpy_becomes_plain(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    values = {
        "step": np.int64(1),
        "nan": float("nan"),
        "inf": np.float32("inf"),
        "f": np.float32(0.5),
        "none": None,
    }
    MetricsLog(path).write(values)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    row = json.loads(path.read_text(), parse_constant=refuse)
    assert row == {"step": 1, "nan": None, "inf": None, "f": 0.5, "none": None}


def test_a_resume_drops_later_rows_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = filled(path, 5)
    log.truncate_after(3)
    log.write({"step": 4, "reward": 0.9})
    assert [(row["step"], row["reward"]) for row in read_metrics(path)] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
        (4, 0.9),
    ]


@pytest.mark.parametrize("fragment", ['{"step": 4, "rew', '{"step": 4, "reward": 0.4}', "\x00\x00"])
def test_a_half_written_last_line_is_dropped(tmp_path: Path, fragment: str) -> None:
    path = tmp_path / "metrics.jsonl"
    log = filled(path, 3)
    with path.open("a") as file:
        file.write(fragment)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    log.truncate_after(10)
    log.write({"step": 4})
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4]


def test_damage_elsewhere_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: "):
        read_metrics(path)


def test_truncating_before_the_first_row_is_fine(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "metrics.jsonl").truncate_after(0)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_resume_drops_garbage_and_names_the_steps_that_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\nnull\n{"step": 4}\n{"step": 9}\n')
    garbage, missing = MetricsLog(path).truncate_after(5)
    assert "dropped 2 lines" in garbage
    assert "3 of 5 steps are missing (2, 3, 5)" in missing
    assert [row["step"] for row in read_metrics(path)] == [1, 4]
    assert MetricsLog(filled(tmp_path / "whole.jsonl", 3).path).truncate_after(3) == []


def test_deleted_rollout_files_are_named_unless_none_are_kept(tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    for step in (1, 3, 6):
        (tmp_path / "rollouts" / f"step_{step:06d}.parquet").write_bytes(b"")
    assert ParquetRollouts(tmp_path, write=False).truncate_after(6) == []
    (told,) = ParquetRollouts(tmp_path).truncate_after(4)
    assert "2 of 4 steps are missing (2, 4)" in told
    assert len(list((tmp_path / "rollouts").iterdir())) == 2
