"""Figures of a run directory, whose files are written by hand here, against sums done by hand; differences
between arms are paired by seed and have Student's interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.model.figures import at, comparisons, run_figures
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


def run(arm: str, seed: int, accuracy: float | None) -> dict[str, Any]:
    return {"arm": arm, "seed": seed, "status": "done", "figures": {"accuracy": {"at_horizon": accuracy}}}


def test_differences_are_taken_within_a_seed() -> None:
    runs = [run("grpo", 0, 0.2), run("grpo", 1, 0.5), run("hybrid", 1, 0.6), run("hybrid", 0, 0.25)]
    (found,) = comparisons(runs)
    assert (found["arm"], found["baseline"], found["seeds"]) == ("hybrid", "grpo", [0, 1])
    assert found["differences"] == pytest.approx([0.05, 0.1])
    assert found["mean"] == pytest.approx(0.075)


def test_a_seed_that_one_arm_did_not_finish_is_left_out() -> None:
    failed = {"arm": "hybrid", "seed": 1, "status": "failed"}
    runs = [run("dapo", 0, 0.2), run("dapo", 1, 0.5), run("dapo", 2, 0.1), run("hybrid", 0, 0.3), failed]
    (found,) = comparisons([*runs, run("hybrid", 2, None)])
    assert found["seeds"] == [0]
    assert found["interval"] is None


def test_baselines_are_compared_once() -> None:
    pairs = [
        (found["arm"], found["baseline"])
        for found in comparisons([run(arm, 0, 0.1) for arm in ("grpo", "dapo", "hybrid", "depo")])
    ]
    assert sorted(pairs) == [
        ("dapo", "grpo"),
        ("depo", "dapo"),
        ("depo", "grpo"),
        ("hybrid", "dapo"),
        ("hybrid", "grpo"),
    ]


def test_interval_ends_where_the_paired_t_test_would_just_reject() -> None:
    hybrid, dapo = [0.22, 0.19, 0.35, 0.13], [0.2, 0.2, 0.3, 0.1]
    runs = [run("hybrid", seed, value) for seed, value in enumerate(hybrid)]
    (found,) = comparisons(runs + [run("dapo", seed, value) for seed, value in enumerate(dapo)])
    for bound in found["interval"]:
        assert stats.ttest_rel(hybrid, np.array(dapo) + bound).pvalue == pytest.approx(0.05)
