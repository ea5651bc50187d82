"""Figures of a run directory, whose files are written by hand here, against sums done by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.model.figures import at, run_figures
from depo.errors import UserError


@pytest.fixture
def run_directory(tmp_path, record) -> Path:
    return record(tmp_path)


def test_accuracy_is_read_off_between_the_evaluations_around_the_horizon(run_directory) -> None:
    accuracy = run_figures(run_directory, horizon=64)["accuracy"]
    assert accuracy["curve"] == [[0, 0.25], [48, 0.5], [80, 0.75]]
    assert (accuracy["before"], accuracy["after"]) == (0.25, 0.75)
    assert accuracy["at_horizon"] == pytest.approx(0.5 + (64 - 48) / (80 - 48) * 0.25)


def test_a_run_that_did_not_reach_the_horizon_has_no_accuracy_there(run_directory) -> None:
    assert run_figures(run_directory, horizon=81)["accuracy"]["at_horizon"] is None
    assert at([], 10) is None


def test_figures_are_those_of_ledger_and_steps(run_directory) -> None:
    found = run_figures(run_directory, horizon=64)
    assert found["effective_ratio"] == 0.45
    assert found["updates"] == 2
    assert found["active_share"] == pytest.approx(2 / 3)
    assert found["mismatch_kl"] == pytest.approx(0.3)  # over the steps that trained
    assert found["reward"] == pytest.approx([0.1, 0.3])
    assert found["audit"] == {"groups": 6.0, "auroc": 0.75, "brier_skill": None, "ece": None}
    assert found["coverage"] == {"seen": 14, "pool": 20, "starvation": 0.5}
    assert [row["rollouts"] for row in found["trace"]] == [16, 48, 80]


def test_a_directory_without_its_files_is_named(run_directory) -> None:
    (run_directory / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"no finished run here .*metrics\.jsonl"):
        run_figures(run_directory, horizon=64)
