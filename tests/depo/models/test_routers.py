"""Routers frozen, trained and in float32, on a tiny qwen3_moe and a tiny mixtral."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from made_samples import equal_groups
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    LlamaConfig,
    MixtralConfig,
    OlmoeConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from depo.errors import UserError
from depo.learner.learner import PolicyLearner
from depo.models.loading import load_model
from depo.models.precision import routers
from depo.recipe import schema
from depo.recipe.schema import Lora, PretrainedPolicy

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "initializer_range": 0.2,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "qwen3_moe": Qwen3MoeConfig(**SIZES, num_experts=4, moe_intermediate_size=16, head_dim=8),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4),
    "qwen2_moe": Qwen2MoeConfig(
        **SIZES, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16
    ),
    "olmoe": OlmoeConfig(**SIZES, num_experts=4),
    "deepseek_v3": DeepseekV3Config(
        **SIZES | {"num_key_value_heads": 4},
        n_routed_experts=4,
        moe_intermediate_size=16,
        first_k_dense_replace=0,
        n_group=1,
        topk_group=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
    ),
}
ATTENTION = ["q_proj"]
ROUTER = ["mlp.gate.weight"]


@pytest.fixture(scope="module", params=["qwen3_moe", "mixtral"])
def moe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[request.param]).save_pretrained(directory)
    return directory


def updated(policy: PretrainedPolicy) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A policy after two updates, and its state before."""
    model = load_model(policy, "cpu")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learner = PolicyLearner(
        model, schema.Learner(lr=1e-2), temperature=1.0, max_new_tokens=5, total_steps=3, pad_token_id=0
    )
    for _ in range(2):
        learner.update(equal_groups())
    return model, before


def moved(model: torch.nn.Module, before: dict[str, torch.Tensor], part: str) -> list[bool]:
    after = model.state_dict()
    return [not torch.equal(after[name], before[name]) for name in before if part in name]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_routers_of_every_supported_architecture_are_found(name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIGS[name])
    assert list(routers(model)) == ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate"]


def test_full_fine_tuning_moves_the_router_unless_it_is_frozen(moe: Path) -> None:
    model, before = updated(PretrainedPolicy(model=str(moe), dtype="float32"))
    assert all(moved(model, before, ".gate.weight"))
    model, before = updated(PretrainedPolicy(model=str(moe), dtype="float32", router="frozen"))
    assert moved(model, before, ".gate.weight") == [False, False]
    assert all(moved(model, before, ".experts."))


def test_lora_trains_the_router_where_its_targets_name_it(moe: Path) -> None:
    lora = Lora(rank=2, targets=ATTENTION, target_parameters=ROUTER)
    model, before = updated(PretrainedPolicy(model=str(moe), lora=lora, router="trained"))
    assert all(moved(model, before, ".gate.lora_"))
    assert moved(model, before, ".gate.base_layer.weight") == [False, False]
    model, before = updated(PretrainedPolicy(model=str(moe), lora=Lora(rank=2, targets=ATTENTION)))
    assert not any(moved(model, before, ".gate."))


@pytest.mark.parametrize(
    ("router", "lora", "complaint"),
    [
        ("trained", Lora(targets=ATTENTION), "add mlp.gate.weight to policy.lora.target_parameters"),
        ("frozen", Lora(targets=[], target_parameters=ROUTER), "has an adapter on the router"),
    ],
)
def test_a_router_that_lora_contradicts_is_refused(
    moe: Path, router: str, lora: Lora, complaint: str
) -> None:
    policy = PretrainedPolicy.model_validate({"model": str(moe), "router": router, "lora": lora})
    with pytest.raises(UserError, match=complaint) as caught:
        load_model(policy, "cpu")
    assert "\n" not in str(caught.value)


def test_a_dense_model_has_no_router_to_freeze(tmp_path: Path) -> None:
    settings = LlamaConfig(**{name: value for name, value in SIZES.items() if "experts" not in name})
    AutoModelForCausalLM.from_config(settings).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"policy\.router: frozen, but a llama model has no router"):
        load_model(PretrainedPolicy(model=str(tmp_path), router="frozen"), "cpu")


@pytest.mark.parametrize("lora", [None, Lora(rank=2, targets=ATTENTION)])
def test_routers_compute_in_float32_under_a_bfloat16_policy(moe: Path, lora: Lora | None) -> None:
    model = load_model(PretrainedPolicy(model=str(moe), dtype="bfloat16", lora=lora), "cpu")
    learner = PolicyLearner(
        model, schema.Learner(), temperature=1.0, max_new_tokens=5, total_steps=3, pad_token_id=0
    )
    seen = []
    (router, *_) = routers(model).values()
    router.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output[0])))
    learner.score([([3, 4, 5], [6, 7, 8])])
    hidden, logits = seen[-1]
    assert logits.dtype == torch.float32
    exact = hidden.double().reshape(-1, 32) @ router.weight.double().T
    assert (logits - exact).abs().max() < 1e-5  # bfloat16 products would be off by about 1e-2
    assert (exact - exact.to(torch.bfloat16)).abs().max() > 1e-4


def test_log_probabilities_are_a_float32_softmax_of_the_bfloat16_heads_logits(moe: Path) -> None:
    model = load_model(PretrainedPolicy(model=str(moe), dtype="bfloat16"), "cpu")
    learner = PolicyLearner(
        model, schema.Learner(), temperature=1.0, max_new_tokens=5, total_steps=3, pad_token_id=0
    )
    seen = []
    model.lm_head.register_forward_hook(lambda _head, _inputs, logits: seen.append(logits))
    (scores,) = learner.score([([3, 4, 5], [6, 7, 8])])
    assert seen[-1].dtype == torch.bfloat16
    exact = seen[-1].double().log_softmax(-1)[range(3), [6, 7, 8]].numpy()
    assert np.abs(scores - exact).max() < 1e-5  # in bfloat16 they would be off by about 1e-2


def test_a_copy_of_the_policy_routes_by_its_own_weights(moe: Path) -> None:
    model = load_model(PretrainedPolicy(model=str(moe), dtype="bfloat16"), "cpu")
    other = copy.deepcopy(model)
    with torch.no_grad():
        (mine, *_), (theirs, *_) = routers(model).values(), routers(other).values()
        theirs.weight.zero_()
        hidden = torch.ones(1, 32)
        assert mine(hidden)[0].abs().max() > 0
        assert theirs(hidden)[0].abs().max() == 0
