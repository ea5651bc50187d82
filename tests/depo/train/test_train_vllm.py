"""`depo train` with vLLM in a Ray actor of its own: weights travel, and are proved to have arrived."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_run import run_depo
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("cluster")]


@pytest.mark.slow  # with one rank it repeats parts of those below
@pytest.mark.parametrize("ranks", [1, 2])
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
    rollouts = pd.concat(pd.read_parquet(path) for path in (workdir / "run" / "rollouts").glob("*.parquet"))
    assert sorted(rollouts["policy_version"].unique()) == [0, 1, 2, 3]


def test_one_step_ahead_the_engine_is_one_policy_behind_and_the_learner_reckons_with_it(workdir):
    """Log-probabilities of each rollout, computed anew from the checkpoints: the engine's are those of the
    policy that made it, the learner's those of the policy that it was about to train."""
    done = run_depo(
        *("train", "tiny.yaml", "rollout.engine=vllm", "rollout.vllm.max_num_seqs=32", "steps=4"),
        *("rollout.max_off_policy_steps=1", "learner.lr=3e-2", "checkpoint={every: 1, keep: 9}"),
        *("evaluation.every=2", "--run-dir", "run"),
        cwd=workdir,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (workdir / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["parity/mean_abs"] < 1e-4 for row in rows[2:])
    assert max(row["overlap/lag_max"] for row in rows) == 1
    summary = json.loads((workdir / "run" / "summary.json").read_text())["rollouts"]
    files = sorted((workdir / "run" / "rollouts").glob("*.parquet"))
    rollouts = pd.concat(pd.read_parquet(file).assign(step=int(file.stem[-6:])) for file in files)
    assert sum(summary["by_outcome"].values()) == summary["generated"] == len(rollouts)
    policies = [
        AutoModelForCausalLM.from_pretrained(workdir / f"run/checkpoints/step_{step:06d}/policy").eval()
        for step in range(4)
    ]
    tokenizer = AutoTokenizer.from_pretrained(workdir / "run" / "policy")

    def of_policy(version: int, row) -> np.ndarray:
        prompt = tokenizer(row.prompt, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = policies[version](torch.tensor([[*prompt, *row.token_ids]])).logits[0]
        chosen = torch.tensor(row.token_ids.tolist())[:, None]
        return logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, chosen)[:, 0].numpy()

    apart = []
    for row in rollouts[rollouts["outcome"] == "trained"].itertuples():
        np.testing.assert_allclose(row.engine_logprobs, of_policy(row.policy_version, row), atol=1e-4)
        np.testing.assert_allclose(row.learner_logprobs, of_policy(row.step - 1, row), atol=1e-4)
        if row.policy_version < row.step - 1:
            apart.append(np.abs(row.engine_logprobs - row.learner_logprobs).max())
    assert len(apart) > 20
    assert np.mean(apart) > 1e-3, "the two policies differ"
