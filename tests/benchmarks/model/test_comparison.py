"""Differences between arms are paired by seed and have Student's interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.model.figures import comparisons


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
