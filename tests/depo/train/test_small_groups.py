"""Groups of one and two, the belief as baseline, and pilots, told from what a run wrote: the loop with
simulated engines, and slowly with a real policy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from simulated_run import rows_of, simulated_recipe, simulated_run
from tiny_run import make_workdir, metrics_of, run_depo

from depo.loop import train

Blocks = dict[str, dict[str, Any]]
SHORT = [
    "estimator=mopps",
    "evaluation.at_end=false",
    "evaluation.at_start=false",
    "rollout.max_new_tokens=2",
]
REAL = pytest.param("real", marks=[pytest.mark.slow, pytest.mark.xdist_group("ray")])


@pytest.fixture(params=["simulated", REAL])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Blocks], pd.DataFrame]:
    """The rollouts that a run with these blocks of its recipe writes into ``tmp_path / "run"``."""

    def simulated(blocks: Blocks) -> pd.DataFrame:
        run = simulated_run(simulated_recipe(**blocks), tmp_path / "run", pool=60)
        train(run)
        return rows_of(run)

    def real(blocks: Blocks) -> pd.DataFrame:
        request.getfixturevalue("cluster")
        workdir = make_workdir(tmp_path, request.getfixturevalue("tiny_policy"))
        keys = [
            f"{name}.{key}={json.dumps(value)}"
            for name, block in blocks.items()
            for key, value in block.items()
        ]
        done = run_depo("train", "tiny.yaml", "--run-dir", "run", *SHORT, *keys, cwd=workdir)
        assert done.returncode == 0, done.stdout + done.stderr
        files = sorted((workdir / "run" / "rollouts").glob("*.parquet"))
        return pd.concat(pd.read_parquet(file).assign(step=int(file.stem[-6:])) for file in files)

    return {"simulated": simulated, "real": real}[request.param]


def thompson(**options: Any) -> dict[str, Any]:
    return {"type": "thompson", "window": 24, "min_window": 12, "audit": 0.2} | options


def test_single_rollouts_are_trained_on_by_how_much_they_surprise(
    rows: Callable[[Blocks], pd.DataFrame], tmp_path: Path
) -> None:
    """Each advantage follows from what the run wrote of the belief."""
    found = rows(
        {
            "batch": {"prompts": 24, "group_size": 1},
            "learner": {"baseline": {"type": "belief", "floor": 0.2}, "min_advantage": 0.8},
            "selection": thompson(refill=False),
        }
    )
    assert (found.groupby(["step", "prompt_key"]).size() == 1).all()
    mean, spread = found.predicted_mean, np.sqrt(found.predicted_mean * (1 - found.predicted_mean))
    expected = (found.value - mean) / np.maximum(spread, 0.2)
    left_out = found.outcome == "negligible"
    small = expected.abs() < 0.8
    assert 0 < small.sum() < len(found)
    thinned = np.where(small & ~left_out, np.sign(expected) * 0.8, expected)
    np.testing.assert_allclose(found.advantage, thinned, rtol=1e-5)
    assert (found.outcome == np.where(left_out, "negligible", "trained")).all()
    assert not (left_out & ~small).any()
    kept = (small & ~left_out).sum()
    assert kept == pytest.approx((expected[small].abs() / 0.8).sum(), abs=4 * np.sqrt(small.sum()) / 2)
    assert (found.learner_logprobs.isna() == left_out).all()

    metrics = metrics_of(tmp_path / "run")
    for step, of_step in found.groupby("step"):
        share = float((of_step.outcome == "negligible").mean())
        assert metrics[step - 1]["uninformative_share"] == pytest.approx(share)
    assert math.isfinite(metrics[-1]["calibration/pass_rate_skill"])
    assert metrics[-1]["selection/resting"] == 0, "one verdict is enough for a single rollout"


def test_the_rest_of_a_group_is_generated_only_where_its_pilots_are_mixed(
    rows: Callable[[Blocks], pd.DataFrame],
) -> None:
    found = rows({"batch": {"prompts": 12, "group_size": 6}, "selection": thompson(refill=True, pilot=2)})
    sizes = set()
    for _, group in found.groupby(["step", "prompt_key"]):
        group = group.sort_values("sample_index")
        pilots_mixed = group.correct.iloc[:2].nunique() == 2
        assert list(group.sample_index) == list(range(6 if pilots_mixed else 2))
        if not pilots_mixed:
            assert set(group.outcome) == {"zero_variance"}
        sizes.add(len(group))
    assert sizes == {2, 6}
    assert len(set(found.seed)) == len(found)
