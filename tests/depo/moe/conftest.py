"""Tiny models of the known architectures: hidden size 32, three layers, 8 experts of which 2 work, 40 tokens.

Routers are drawn three times wider than the rest: their choices are about as clear as a trained model's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaConfig, PreTrainedModel

VOCABULARY, LAYERS, EXPERTS, TOP_K = 40, 3, 8, 2
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 24,
    "moe_intermediate_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts_per_tok": TOP_K,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.2,
}
LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": None,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
GROUPS = {"n_group": 4, "topk_group": 2, "n_shared_experts": 1, "routed_scaling_factor": 2.5}
DENSE_FIRST = {"first_k_dense_replace": 1}
OWN = {
    "qwen3_moe": {"num_experts": EXPERTS, "head_dim": 8, "norm_topk_prob": True},
    "qwen2_moe": {"num_experts": EXPERTS, "norm_topk_prob": False, "shared_expert_intermediate_size": 16},
    "olmoe": {"num_experts": EXPERTS, "norm_topk_prob": False},
    "mixtral": {"num_local_experts": EXPERTS},
    "deepseek_v2": {
        "n_routed_experts": EXPERTS,
        "topk_method": "group_limited_greedy",
        **LATENT,
        **GROUPS,
        **DENSE_FIRST,
    },
    "deepseek_v3": {"n_routed_experts": EXPERTS, "norm_topk_prob": True, **LATENT, **GROUPS, **DENSE_FIRST},
    "glm4_moe": {"n_routed_experts": EXPERTS, "norm_topk_prob": True, "head_dim": 8, **GROUPS, **DENSE_FIRST},
    "dots1": {"n_routed_experts": EXPERTS, "norm_topk_prob": True, "head_dim": 8, **GROUPS, **DENSE_FIRST},
    "flex_olmo": {"num_experts": EXPERTS, "norm_topk_prob": False},
    "qwen3_next": {
        "num_experts": EXPERTS,
        "head_dim": 8,
        "shared_expert_intermediate_size": 16,
        "layer_types": ["linear_attention", "linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
}


def build(architecture: str, **changes: object) -> PreTrainedModel:
    settings = CONFIG_MAPPING[architecture](**(SIZES | OWN[architecture] | changes))
    settings._experts_implementation = "eager"
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(settings)
    for module in model.modules():
        if type(module).__name__.lower().endswith("topkrouter"):
            with torch.no_grad():
                module.weight.mul_(3)
                if hasattr(module, "e_score_correction_bias"):
                    module.e_score_correction_bias.copy_(torch.linspace(-0.2, 0.2, EXPERTS))
    return model.eval()


@pytest.fixture(scope="session")
def built() -> dict[str, PreTrainedModel]:
    return {name: build(name) for name in OWN}


@pytest.fixture
def moe(built: dict[str, PreTrainedModel]) -> Callable[[str], PreTrainedModel]:
    """A fresh copy of a tiny mixture, by architecture."""
    return lambda architecture: copy.deepcopy(built[architecture])


@pytest.fixture
def make_dense() -> Callable[[], PreTrainedModel]:
    settings = LlamaConfig(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=24, num_hidden_layers=1)
    return lambda: AutoModelForCausalLM.from_config(settings).eval()


@pytest.fixture
def tokens() -> torch.Tensor:
    """(3, 7) token ids."""
    torch.manual_seed(7)
    return torch.randint(2, VOCABULARY, (3, 7))
