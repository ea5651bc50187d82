"""Figures of a run directory: read from recorded files written by hand here, checked against sums done by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from depo.bench.model.figures import at, run_figures
from depo.errors import UserError

ROWS: list[dict[str, Any]] = [
    {"step": 1, "rollouts": 16, "groups": 4, "effective_groups": 1, "reward": 0.1, "seconds/step": 2.0}
    | {"selection/active": 0.0, "optimizer_steps": 1.0, "mismatch_kl": 0.2, "completion_tokens": 10.0},
    {"step": 2, "rollouts": 48, "groups": 8, "effective_groups": 4, "reward": 0.3, "seconds/step": 3.0}
    | {"selection/active": 1.0, "optimizer_steps": 1.0, "mismatch_kl": 0.4, "eval/all": 0.5},
    {"step": 3, "rollouts": 80, "groups": 8, "effective_groups": 4, "reward": None, "seconds/step": 4.0}
    | {"selection/active": 1.0, "optimizer_steps": 0.0},
]
SUMMARY: dict[str, Any] = {
    "steps": 3,
    "eval": {"before": {"all": 0.25}, "after": {"all": 0.75}},
    "rollouts": {"generated": 80, "saved": 12.5, "saved_interval": [-3.0, 40.0]},
    "tokens": {"generated": 900},
    "groups": {
        "effective": 9,
        "effective_ratio": 0.45,
        "rollouts_per_effective_group": 80 / 9,
        "tokens_per_effective_group": 100.0,
        "uniform": {"drawn": 6, "mixed": 2, "rate": 1 / 3},
    },
    "prompts": {"seen": 14, "pool": 20},
    "selection": {"calibration/groups": 6.0, "calibration/auroc": 0.75, "coverage/starvation": 0.5},
    "seconds": {"generate": 5.0, "steps": 9.0, "wall": 20.0},
}


@pytest.fixture
def run_directory(tmp_path) -> Path:
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


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
