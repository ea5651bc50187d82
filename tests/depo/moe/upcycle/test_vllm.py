"""What `depo upcycle` writes, loaded by vLLM: the greedy completions that transformers gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen3Config

from depo.cli import main
from depo.recipe.schema import Rollouts
from depo.rollout.engine import Sampling
from depo.rollout.vllm.pool import VllmPool
from depo.types import Prompt, Request

pytestmark = pytest.mark.vllm

SIZES = {
    "vocab_size": 60,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,  # vLLM's CPU attention knows none that is smaller
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
}
DENSE: dict[str, PretrainedConfig] = {"mixtral": LlamaConfig(**SIZES), "qwen3_moe": Qwen3Config(**SIZES)}
TOKENS, ENDS = 16, [1, 7]
PROMPTS = [(3 + 2 * p, 10 + 3 * p, 50 - p) for p in range(12)]


@pytest.mark.parametrize("kind", DENSE)
def test_vllm_says_what_transformers_says(
    kind: str, cluster: None, save: Callable[..., Path], tmp_path: Path
) -> None:
    """Three of eight experts a token, by a router that means it, some dimensions of each its own: experts
    mixed up, left out or weighed otherwise would be heard."""
    save(DENSE[kind], tmp_path / "dense")
    options = ["--top-k", "3", "--router-std", "0.5", "--drop", "0.3"]
    assert main(["upcycle", str(tmp_path / "dense"), str(tmp_path / "moe"), *options]) == 0
    expected = by_transformers(tmp_path / "moe", kind)
    assert len(set(expected)) == len(PROMPTS)  # not one loop that all of them end in
    assert expected != by_transformers(tmp_path / "dense", DENSE[kind].model_type)
    assert by_vllm(tmp_path / "moe") == expected


@torch.no_grad()
def by_transformers(directory: Path, kind: str) -> list[tuple[int, ...]]:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert model.config.model_type == kind
    completions = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, eos_token_id=ENDS
        )
        completions.append(tuple(out[0, len(prompt) :].tolist()))
    return completions


def by_vllm(directory: Path) -> list[tuple[int, ...]]:
    settings = Rollouts(engine="vllm", vllm={"max_num_seqs": 16, "cpu_kv_cache_gib": 0.25})
    pool = VllmPool(
        settings, str(directory), dtype="float32", context_length=32, eos_token_ids=ENDS, threads=1
    )
    pool.ready()
    requests = [Request(Prompt(f"{p:02d}", "", ids, ""), (p,)) for p, ids in enumerate(PROMPTS)]
    rollouts = sorted(pool.generate(requests, Sampling(0.0, TOKENS)), key=lambda rollout: rollout.key)
    pool.close()
    return [tuple(rollout.token_ids.tolist()) for rollout in rollouts]
