"""Groups of one and two, the belief as baseline, and pilots: real runs, told from what they wrote."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_run import run_depo

pytestmark = pytest.mark.usefixtures("cluster")

SHORT = ["evaluation.at_end=false", "evaluation.at_start=false", "data.heldout=1"]


def rows_of(workdir: Path, *overrides: str) -> pd.DataFrame:
    done = run_depo("train", "tiny.yaml", "--run-dir", "run", *SHORT, *overrides, cwd=workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    files = sorted((workdir / "run" / "rollouts").glob("*.parquet"))
    return pd.concat([pd.read_parquet(file) for file in files])


def test_single_rollouts_are_trained_on_by_how_much_they_surprise(workdir: Path) -> None:
    """Each advantage follows from what the run wrote of the belief."""
    settings = [
        "estimator=mopps",
        "batch={prompts: 24, group_size: 1}",
        "learner.baseline={type: belief, floor: 0.2}",
        "learner.min_advantage=0.8",
        "selection.refill=false",
    ]
    rows = rows_of(workdir, *settings)
    assert (rows.groupby(["step", "prompt_key"]).size() == 1).all()
    mean, spread = rows.predicted_mean, np.sqrt(rows.predicted_mean * (1 - rows.predicted_mean))
    expected = (rows.value - mean) / np.maximum(spread, 0.2)
    left_out = rows.outcome == "negligible"
    small = expected.abs() < 0.8
    assert 0 < small.sum() < len(rows)
    thinned = np.where(small & ~left_out, np.sign(expected) * 0.8, expected)
    np.testing.assert_allclose(rows.advantage, thinned, rtol=1e-5)
    assert (rows.outcome == np.where(left_out, "negligible", "trained")).all()
    assert not (left_out & ~small).any()
    kept = (small & ~left_out).sum()
    assert kept == pytest.approx((expected[small].abs() / 0.8).sum(), abs=4 * np.sqrt(small.sum()) / 2)
    assert rows[rows.outcome == "negligible"].learner_logprobs.isna().all()

    metrics = [json.loads(line) for line in (workdir / "run" / "metrics.jsonl").read_text().splitlines()]
    for step, of_step in rows.groupby("step"):
        share = float((of_step.outcome == "negligible").mean())
        assert metrics[step - 1]["uninformative_share"] == pytest.approx(share)
    assert math.isfinite(metrics[-1]["calibration/pass_rate_skill"])
    assert metrics[-1]["selection/resting"] == 0, "one verdict is enough for a single rollout"


def test_the_rest_of_a_group_is_generated_only_where_its_pilots_are_mixed(workdir: Path) -> None:
    rows = rows_of(
        workdir, "batch={prompts: 12, group_size: 6}", "selection.pilot=2", "rollout.max_new_tokens=2"
    )
    sizes = set()
    for _, group in rows.groupby(["step", "prompt_key"]):
        group = group.sort_values("sample_index")
        pilots_mixed = group.correct.iloc[:2].nunique() == 2
        assert list(group.sample_index) == list(range(6 if pilots_mixed else 2))
        if not pilots_mixed:
            assert set(group.outcome) == {"zero_variance"}
        sizes.add(len(group))
    assert sizes == {2, 6}
    assert len(set(rows.seed)) == len(rows)
