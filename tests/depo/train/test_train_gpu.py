"""`depo train` on a CUDA device: policy and engine there, a run that is killed, vLLM beside the learner."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny_run import depo_command, make_workdir, run_depo
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from depo.toy.tiny_moe import character_tokenizer

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cluster")]

QUICK = ("evaluation.at_start=false", "evaluation.at_end=false")


def metrics_of(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def finite(row: dict) -> bool:
    return all(np.isfinite(value) for value in row.values() if isinstance(value, float))


def movement(run_dir: Path, initial: Path) -> torch.Tensor:
    """By how much the run moved the policy's weights, all of them in one vector."""
    after, before = (load_file(path / "model.safetensors") for path in (run_dir / "policy", initial))
    return torch.cat([(after[name].float() - before[name].float()).flatten() for name in sorted(before)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_policy, cuda) -> tuple[Path, str]:
    """A run that nobody disturbed, its directory and what it printed."""
    workdir = make_workdir(tmp_path_factory.mktemp("finished"), tiny_policy)
    device = f"learner.device={cuda.type}"
    done = run_depo("train", "tiny.yaml", device, "--run-dir", "run", cwd=workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    return workdir / "run", done.stdout


def test_a_run_trains_there_and_engine_and_learner_agree(finished, cuda: torch.device, tiny_policy) -> None:
    run_dir, printed = finished
    assert re.search(rf"trained, on {cuda.type}(:0)?;", printed), printed
    rows = metrics_of(run_dir)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert len({row["loss"] for row in rows}) == 6
    for row in rows:
        assert finite(row)
        assert row["optimizer_steps"] == 4
        assert row["policy_kl"] > 1e-6
        assert row["mismatch_kl"] < 1e-8
    frame = pd.concat(pd.read_parquet(path) for path in sorted((run_dir / "rollouts").glob("*.parquet")))
    trained = frame[frame["outcome"] == "trained"]
    pairs = zip(trained["engine_logprobs"], trained["learner_logprobs"], strict=True)
    assert max(np.abs(engine - learner).max() for engine, learner in pairs) < 1e-3
    assert movement(run_dir, tiny_policy).abs().max() > 1e-3
    summary = json.loads((run_dir / "summary.json").read_text())
    assert 0 <= summary["eval"]["after"]["all"] <= 1


def test_bfloat16_trains_there(workdir: Path, cuda: torch.device) -> None:
    overrides = ("policy.dtype=bfloat16", f"learner.device={cuda.type}", "steps=2", *QUICK)
    done = run_depo("train", "tiny.yaml", *overrides, "--run-dir", "run", cwd=workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    for row in metrics_of(workdir / "run"):
        assert finite(row)
        assert row["mismatch_kl"] < 1e-3
        assert 0 < row["routing/agreement_update"] <= 1
    written = AutoModelForCausalLM.from_pretrained(workdir / "run" / "policy", dtype="auto")
    assert written.dtype == torch.bfloat16


def test_a_killed_run_goes_on_to_about_where_one_never_stopped_ends(
    finished, workdir: Path, cuda: torch.device, tiny_policy
) -> None:
    """About: kernels of a GPU add up in no fixed order (attention's and the embedding's backward pass), so
    that weights differ in their last bits and, seldom, a token drawn at a border is another one. Which
    prompts were picked and what was counted depends on samples, too; the schedule does not."""
    straight, _ = finished
    device = f"learner.device={cuda.type}"
    process = subprocess.Popen(
        depo_command("train", "tiny.yaml", device, "--run-dir", "killed", "--quiet"),
        cwd=workdir,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        stdout=subprocess.DEVNULL,
    )
    metrics = workdir / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    try:
        while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (workdir / "killed" / "summary.json").exists()
    done = run_depo("train", "tiny.yaml", device, "--run-dir", "killed", "--resume", cwd=workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"resuming after step [24]", done.stdout)
    ours, theirs = metrics_of(workdir / "killed"), metrics_of(straight)
    assert [row["step"] for row in ours] == [1, 2, 3, 4, 5, 6]
    assert [row["lr"] for row in ours] == [row["lr"] for row in theirs]
    assert all(finite(row) for row in ours)
    moved = movement(workdir / "killed", tiny_policy), movement(straight, tiny_policy)
    assert torch.cosine_similarity(*moved, dim=0) > 0.8
    first = [
        pd.read_parquet(path / "rollouts" / "step_000001.parquet") for path in (workdir / "killed", straight)
    ]
    assert first[0]["prompt_key"].tolist() == first[1]["prompt_key"].tolist()
    same = [np.array_equal(a, b) for a, b in zip(first[0]["token_ids"], first[1]["token_ids"], strict=True)]
    assert np.mean(same) > 0.95


# ---------------------------------------------------------------- vLLM


@pytest.fixture(scope="module")
def vllm_policy(tmp_path_factory) -> Path:
    """As ``tiny_policy``, with heads as large as vLLM's attention takes on GPUs, and weights so wide that the
    start-up probe's perturbation shows (about 1 nat) above bfloat16's noise (about 0.03)."""
    directory = tmp_path_factory.mktemp("policy") / "wide"
    tokenizer = character_tokenizer(128)
    settings = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        moe_intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        num_experts=16,
        num_experts_per_tok=4,
        norm_topk_prob=True,
        max_position_embeddings=128,
        initializer_range=0.15,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    Qwen3MoeForCausalLM(settings).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def run_with_vllm(workdir: Path, policy: Path, device: torch.device, *overrides: str) -> list[dict]:
    """Rows of a run of three steps in which learner and engine share the one GPU."""
    shared = ("resources.learner_gpus=0", "rollout.vllm.gpu_memory_utilization=0.3")
    done = run_depo(
        *("train", "tiny.yaml", f"policy.model={policy}", f"learner.device={device.type}"),
        *("rollout.engine=vllm", "rollout.vllm.max_num_seqs=32", "steps=3", *shared, *QUICK, *overrides),
        *("--run-dir", "run"),
        cwd=workdir,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = metrics_of(workdir / "run")
    assert [row["step"] for row in rows] == [1, 2, 3]
    frame = pd.concat(pd.read_parquet(path) for path in (workdir / "run" / "rollouts").glob("*.parquet"))
    assert sorted(frame["policy_version"].unique()) == [0, 1, 2]
    return rows


@pytest.mark.vllm
def test_vllm_serves_the_weights_of_each_step_out_of_its_captured_graphs(
    workdir: Path, vllm_policy: Path, cuda: torch.device
) -> None:
    """Compiled and with CUDA graphs, as on GPUs by default: the probe after each sync is what would notice
    that a graph kept reading old weights. With old weights mismatch_kl would be
    about the last step's policy_kl."""
    pytest.importorskip("vllm")
    for row in run_with_vllm(workdir, vllm_policy, cuda, "policy.dtype=bfloat16", "learner.lr=3e-4"):
        assert row["parity/mean_abs"] < 0.15
        assert row["policy_kl"] > 0.05
        assert row["mismatch_kl"] < 0.02


@pytest.mark.vllm
def test_vllm_routes_are_replayed(workdir: Path, vllm_policy: Path, cuda: torch.device) -> None:
    pytest.importorskip("vllm")
    overrides = ("policy.dtype=bfloat16", "learner.lr=1e-4", "learner.routing_replay=r3")
    overrides += ("rollout.vllm.enforce_eager=true",)
    for row in run_with_vllm(workdir, vllm_policy, cuda, *overrides):
        # All that can be: of each completion the first token is predicted from the prompt's last position.
        assert row["routing/replayed"] == pytest.approx(1 - row["sequences"] / row["tokens"])
        assert row["routing/agreement_engine"] > 0.95
        assert row["mismatch_kl"] < 0.01
        assert row["parity/mean_abs"] < 0.15
