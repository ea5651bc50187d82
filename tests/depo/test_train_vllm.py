"""`depo train` with vLLM in a Ray actor of its own: weights travel, and are proved to have arrived."""

import json

import pandas as pd
import pytest
from tiny_run import run_depo

pytest.importorskip("vllm")
pytestmark = pytest.mark.vllm


def test_vllm_generates_with_the_weights_of_each_step(workdir):
    done = run_depo(
        *("train", "tiny.yaml", "rollout.engine=vllm", "rollout.vllm.max_num_seqs=32", "steps=3"),
        *("learner.lr=1e-2", "--run-dir", "run"),
        cwd=workdir,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (workdir / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    # The policy moves visibly, and yet the engine's log-probabilities are the learner's after every sync.
    assert all(row["policy_kl"] > 1e-4 for row in rows)
    assert all(row["mismatch_kl"] < 1e-8 for row in rows)
    assert all(row["parity/mean_abs"] < 1e-4 for row in rows)
    rollouts = pd.concat(pd.read_parquet(path) for path in (workdir / "run" / "rollouts").glob("*.parquet"))
    assert sorted(rollouts["policy_version"].unique()) == [0, 1, 2]
