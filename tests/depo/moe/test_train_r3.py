"""`depo train` with the engine's routes replayed, and what it says when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import run_depo
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

pytestmark = pytest.mark.usefixtures("cluster")

R3 = "learner.routing_replay=r3"
TIMINGS = ("seconds", "tokens_per_second")


def rows_of(path: Path) -> list[dict]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(TIMINGS)} for row in rows]


@pytest.mark.slow
def test_r3_trains_and_goes_on_after_an_interruption_with_the_same_numbers(workdir: Path) -> None:
    quick = ("evaluation.at_start=false", "evaluation.at_end=false", "checkpoint.every=2")
    for directory, arguments in (
        ("straight", ["steps=4"]),
        ("resumed", ["steps=2"]),
        ("resumed", ["steps=4", "--resume"]),
    ):
        done = run_depo("train", "tiny.yaml", R3, *quick, "--run-dir", directory, *arguments, cwd=workdir)
        assert done.returncode == 0, done.stdout + done.stderr
    straight = rows_of(workdir / "straight" / "metrics.jsonl")
    assert straight == rows_of(workdir / "resumed" / "metrics.jsonl")
    layers = rows_of(workdir / "straight" / "routing.jsonl")
    assert layers == rows_of(workdir / "resumed" / "routing.jsonl")
    assert [row["step"] for row in layers] == [1, 2, 3, 4]
    for row, by_layer in zip(straight, layers, strict=True):
        # Of a completion of up to 5 tokens, all but the first are predicted from a replayed position.
        assert 0.5 < row["routing/replayed"] < 0.81
        assert row["routing/agreement_engine"] > 0.99
        assert 0 < row["routing/agreement_update"] <= 1
        assert row["mismatch_kl"] < 1e-8
        assert by_layer["layer"] == [0, 1]
        assert 0 < by_layer["entropy"][0] < 1.39
        assert max(by_layer["load_max"]) == row["routing/load_max"]


@pytest.mark.slow
def test_replay_of_a_dense_policy_is_one_clear_line(workdir: Path, tiny_policy: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    settings = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(settings).save_pretrained(workdir / "dense")
    tokenizer.save_pretrained(workdir / "dense")
    done = run_depo("train", "tiny.yaml", R3, "policy.model=dense", "--run-dir", "run", cwd=workdir)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for words in ("learner.routing_replay r3", "llama", "dense", "qwen3_moe"):
        assert words in done.stderr
    assert not (workdir / "run" / "metrics.jsonl").exists()


def test_vllm_on_a_cpu_cannot_replay_and_says_so_before_anything_starts(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depo.train.assembly.gpus_in_cluster", lambda: 0)
    done = run_depo("train", "tiny.yaml", R3, "rollout.engine=vllm", "--run-dir", "run", cwd=workdir)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for words in ("learner.routing_replay r3", "vLLM", "GPU", "r2"):
        assert words in done.stderr
