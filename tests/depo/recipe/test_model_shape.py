"""What a model's config.json says: how long a sequence it takes, and its parameters, against transformers'
own models, built without memory on the meta device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OlmoeConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from depo.recipe.model_shape import model_shape, positions

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 100,
    "vocab_size": 99,
}
MOE = {"num_experts": 6, "num_experts_per_tok": 2}
CONFIGS = {
    "llama with biases": LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "llama tied": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "mistral": MistralConfig(**SMALL),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3 with its own head size": Qwen3Config(**SMALL, head_dim=32, tie_word_embeddings=True),
    "qwen3_moe": Qwen3MoeConfig(**SMALL, **MOE, moe_intermediate_size=40, head_dim=16),
    "qwen3_moe with dense layers": Qwen3MoeConfig(
        **SMALL, **MOE, moe_intermediate_size=40, decoder_sparse_step=2, mlp_only_layers=[3]
    ),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=5, num_experts_per_tok=2),
    "olmoe": OlmoeConfig(**SMALL, **MOE),
}


def saved(config: PretrainedConfig, directory: Path) -> dict:
    """The configuration as it stands in a model directory."""
    config.save_pretrained(directory)
    return json.loads((directory / "config.json").read_text())


def on_meta(config: PretrainedConfig) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_total_is_what_transformers_builds(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    shape = model_shape(saved(config, tmp_path))
    assert shape is not None
    assert shape.parameters == sum(p.numel() for p in on_meta(config).parameters())


@pytest.mark.parametrize("name", ["qwen3_moe with dense layers", "mixtral", "olmoe"])
def test_active_leaves_out_the_experts_a_token_is_not_routed_to(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    shape = model_shape(saved(config, tmp_path))
    assert shape is not None
    experts = [p for n, p in on_meta(config).named_parameters() if ".experts." in n]
    count = experts[0].shape[0]
    idle = sum(p.numel() // count for p in experts) * (count - config.num_experts_per_tok)
    assert idle > 0
    assert shape.active == shape.parameters - idle


def test_dense_models_are_wholly_active(tmp_path: Path) -> None:
    shape = model_shape(saved(CONFIGS["qwen2"], tmp_path))
    assert shape is not None
    assert shape.active == shape.parameters


def test_lora_parameters_are_what_peft_adds(tmp_path: Path) -> None:
    config, targets = CONFIGS["qwen3 with its own head size"], ["q_proj", "k_proj", "o_proj", "down_proj"]
    shape = model_shape(saved(config, tmp_path))
    assert shape is not None
    model = get_peft_model(AutoModelForCausalLM.from_config(config), LoraConfig(r=3, target_modules=targets))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert shape.lora_parameters(3, targets) == trainable


@pytest.mark.parametrize("name", ["qwen3_moe with dense layers", "mixtral", "olmoe"])
def test_lora_on_fused_experts_and_routers_is_what_peft_adds(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    targets = ["mlp.experts.gate_up_proj", "experts.down_proj", "mlp.gate.weight"]
    shape = model_shape(saved(config, tmp_path))
    assert shape is not None
    settings = LoraConfig(r=3, target_modules=["q_proj"], target_parameters=targets)
    model = get_peft_model(AutoModelForCausalLM.from_config(config), settings)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert shape.lora_parameters(3, ["q_proj"], targets) == trainable
    assert shape.lora_parameters(3, ["q_proj"], ["mlp.experts.gate_proj"]) is None
    routers = [p for n, p in model.named_parameters() if n.endswith(".gate.base_layer.weight")]
    assert shape.routers == sum(p.numel() for p in routers) > 0


def test_lora_on_experts_is_unknown_rather_than_wrong(tmp_path: Path) -> None:
    shape = model_shape(saved(CONFIGS["qwen3_moe"], tmp_path))
    assert shape is not None
    assert shape.lora_parameters(3, ["gate_proj"]) is None


def test_key_value_cache_holds_what_a_forward_pass_caches(tmp_path: Path) -> None:
    config = CONFIGS["qwen3_moe"]
    shape = model_shape(saved(config, tmp_path))
    assert shape is not None
    model = AutoModelForCausalLM.from_config(config)
    tokens = 7
    cache = model(torch.zeros(1, tokens, dtype=torch.long), use_cache=True).past_key_values
    cached = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert shape.kv_values_per_token * tokens == cached


def test_an_architecture_that_is_not_covered_has_no_shape() -> None:
    assert model_shape({"model_type": "mamba"}) is None


# ---------------------------------------------------------------- positions

LLAMA_3_1 = {
    "max_position_embeddings": 131072,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
}
QWEN_2_5_WITH_YARN = {
    "max_position_embeddings": 32768,
    "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
}
PLAIN = {"max_position_embeddings": 8192, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (LLAMA_3_1, 131072),  # as its model card says: 128k
        (QWEN_2_5_WITH_YARN, 131072),  # as its model card says: 131,072 with this rope_scaling
        (PLAIN, 8192),
        ({"max_position_embeddings": 2048, "rope_scaling": None}, 2048),
        ({"model_type": "mamba"}, None),
    ],
)
def test_positions(config: dict[str, object], tokens: int | None) -> None:
    assert positions(config) == tokens
