"""vLLM in Ray actors, and transformers on the same weights: a tiny MoE and a tiny tied-head model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from depo.recipe.schema import Rollouts
from depo.rollout.engine import WeightUpdate
from depo.rollout.vllm.pool import VllmPool
from depo.types import Prompt, Request

VOCAB = 40
END, ALSO_END = 1, 2
CONTEXT = 256


def tiny_moe() -> Qwen3MoeForCausalLM:
    torch.manual_seed(0)
    shape = Qwen3MoeConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=128,
        moe_intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    return Qwen3MoeForCausalLM(shape).eval()


def tiny_tied() -> LlamaForCausalLM:
    torch.manual_seed(1)
    shape = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(shape).eval()


def prompt_of(key: int, length: int = 4) -> Prompt:
    ids = np.random.default_rng(key).integers(3, VOCAB, size=length)
    return Prompt(key=f"prompt {key}", text="", token_ids=tuple(int(token) for token in ids), reference="")


class TransformersLearner:
    """The learner's side: the weights, teacher-forced scores, and a directory to hand weights over."""

    ends = (END, ALSO_END)

    def __init__(self, model, directory: Path) -> None:
        self.model = model
        self.directory = directory
        self.version = 0
        rng = np.random.default_rng(7)
        self.sequences = [
            (prompt_of(key).token_ids, tuple(map(int, rng.integers(VOCAB, size=24)))) for key in range(4)
        ]
        self.kept: dict[str, torch.Tensor] = {}
        # What chat models ship: were it followed, every sample would be the most likely token.
        model.generation_config.update(do_sample=True, top_k=1, temperature=0.6, eos_token_id=END)
        self.export()

    def export(self) -> str:
        self.model.save_pretrained(self.directory)
        return str(self.directory)

    @torch.no_grad()
    def score(self, sequences, temperature: float = 1.0) -> list[np.ndarray]:
        scores = []
        for prompt, completion in sequences:
            ids = torch.tensor([[*prompt, *completion]], dtype=torch.long)
            logprobs = (self.model(ids).logits[0].double() / temperature).log_softmax(-1)
            rows = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
            scores.append(logprobs[rows, ids[0, len(prompt) :]].numpy())
        return scores

    @torch.no_grad()
    def perturb(self, seed: int, scale: float = 1.0) -> None:
        self.kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        torch.manual_seed(seed)
        for weight in self.model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)

    def restore(self) -> None:
        self.model.load_state_dict(self.kept)

    def sync_into(self, pool: VllmPool) -> int:
        self.version += 1
        return pool.load_weights(WeightUpdate(self.version, self.export()))

    def largest_gap(self, asked: list[Request], rollouts, temperature: float) -> float:
        """Largest |recorded − teacher-forced| log-probability over all tokens of all rollouts."""
        ids = {request.prompt.key: request.prompt.token_ids for request in asked}
        forced = self.score([(ids[rollout.key], rollout.token_ids) for rollout in rollouts], temperature)
        return max(
            float(np.abs(row - rollout.logprobs).max()) for row, rollout in zip(forced, rollouts, strict=True)
        )

    def score_gap(self, pool: VllmPool) -> float:
        """The same of the fixed sequences, over all engines of the pool."""
        expected = np.concatenate(self.score(self.sequences))
        found = pool.score_each(self.sequences).values()
        return max(float(np.abs(np.concatenate(rows) - expected).max()) for rows in found)


def pool_of(model: Path, workers: int = 1) -> VllmPool:
    settings = Rollouts(
        engine="vllm", vllm={"workers": workers, "max_num_seqs": 64, "cpu_kv_cache_gib": 0.25}
    )
    return VllmPool(
        settings,
        str(model),
        dtype="float32",
        context_length=CONTEXT,
        eos_token_ids=(END, ALSO_END),
        threads=1,
    )


@pytest.fixture(scope="package")
def served(cluster, tmp_path_factory):
    """Learner and pool by kind of model; the MoE is served by two engines."""
    learners = {
        name: TransformersLearner(build(), tmp_path_factory.mktemp(name) / "policy")
        for name, build in (("moe", tiny_moe), ("tied", tiny_tied))
    }
    pools = {name: pool_of(learners[name].directory, workers) for name, workers in (("moe", 2), ("tied", 1))}
    for pool in pools.values():
        pool.ready()
    yield {name: (learners[name], pools[name]) for name in learners}
    for pool in pools.values():
        pool.close()


@pytest.fixture(params=["moe", "tied"])
def pair(served, request):
    return served[request.param]


@pytest.fixture
def prompt() -> Callable[..., Prompt]:
    return prompt_of


@pytest.fixture
def requests() -> Callable[..., list[Request]]:
    """``requests(prompts, samples, length=4)``"""

    def made(prompts: int, samples: int, length: int = 4) -> list[Request]:
        return [
            Request(prompt_of(key, length), tuple(10_000 * key + sample for sample in range(samples)))
            for key in range(prompts)
        ]

    return made


@pytest.fixture
def pool_for() -> Callable[..., VllmPool]:
    """``pool_for(model)``: a pool that may still be starting."""
    return pool_of
