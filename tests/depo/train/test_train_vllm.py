"""`depo train` with vLLM in a Ray actor of its own: weights travel, and are proved to have arrived."""

import json

import pandas as pd
import pytest
from tiny_run import run_depo

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("cluster")]


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_vllm_generates_with_the_weights_of_each_step(ranks, workdir):
    done = run_depo(
        *("train", "tiny.yaml", "rollout.engine=vllm", "rollout.vllm.max_num_seqs=32", "steps=3"),
        *("learner.lr=1e-2", f"learner.ranks={ranks}", "--run-dir", "run"),
        cwd=workdir,
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


def test_with_lora_the_engine_agrees_after_every_sync_and_after_a_resume(workdir):
    """The engines keep the rest from the checkpoint that they were started from, also after a resume."""
    settings = ("rollout.engine=vllm", "rollout.vllm.max_num_seqs=32", "learner.lr=3e-2")
    settings += ("policy.lora.rank=8", "policy.lora.targets=[q_proj, o_proj]", "policy.router=frozen")
    first = run_depo("train", "tiny.yaml", *settings, "steps=2", "--run-dir", "run", cwd=workdir)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "vLLM: waiting for 1 engine to load the policy" in first.stdout
    assert "vLLM: weights arrive" in first.stdout
    resume = ("train", "tiny.yaml", *settings, "steps=4", "--run-dir", "run", "--resume")
    second = run_depo(*resume, cwd=workdir)
    assert second.returncode == 0, second.stdout + second.stderr
    rows = [json.loads(line) for line in (workdir / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["policy_kl"] > 1e-4 for row in rows)
    assert all(row["mismatch_kl"] < 1e-8 for row in rows)
    assert all(row["parity/mean_abs"] < 1e-4 for row in rows)
