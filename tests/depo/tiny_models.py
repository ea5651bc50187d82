"""Tiny policies: hidden size 32, two layers, 40 tokens."""

from __future__ import annotations

import torch
from made_samples import VOCABULARY
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from depo.learner.learner import PolicyLearner
from depo.learner.ranks import ALONE, Ranks
from depo.recipe import schema

PAD = 0
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "eos_token_id": 1,
    "initializer_range": 0.2,  # peaked distributions: a mistake shows
}
LINEAR_SIZES = {"num_key_heads": 2, "num_value_heads": 4, "key_head_dim": 8, "value_head_dim": 8}


def build_model(architecture: str) -> PreTrainedModel:
    torch.manual_seed(11)
    moe = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    if architecture == "qwen3_next":
        linear = {f"linear_{what}": size for what, size in LINEAR_SIZES.items()}
        layers = {
            "layer_types": ["linear_attention", "full_attention"],
            "shared_expert_intermediate_size": 16,
        }
        return Qwen3NextForCausalLM(Qwen3NextConfig(**SIZES, **moe, **linear, **layers)).eval()
    if architecture == "qwen3_moe":
        settings = Qwen3MoeConfig(**SIZES, **moe, experts_implementation="eager", output_router_logits=True)
        return Qwen3MoeForCausalLM(settings).eval()
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=architecture == "llama_tied")).eval()


def build_learner(model: torch.nn.Module, seed: int = 0, ranks: Ranks = ALONE, **settings) -> PolicyLearner:
    defaults = {"lr": 1e-2, "correction": {"type": "none"}, "tokens_per_microbatch": 64}
    return PolicyLearner(
        model,
        schema.Learner.model_validate(defaults | settings),
        temperature=0.8,
        max_new_tokens=9,
        total_steps=10,
        pad_token_id=PAD,
        seed=seed,
        ranks=ranks,
    )
