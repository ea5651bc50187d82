"""Against peft's own merge, and by loading what was written."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from depo.learner.learner import PolicyLearner
from depo.models.export import export_policy
from depo.models.precision import set_compute_dtype
from depo.types import TrainSample

MakeModel = Callable[[str], PreTrainedModel]
TOKENS = torch.arange(2, 34).view(2, 16)


def with_lora(model: PreTrainedModel) -> nn.Module:
    torch.manual_seed(3)
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    return get_peft_model(model, settings).eval()


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.mark.parametrize("architecture", ["qwen3_moe", "llama", "llama_tied"])
def test_a_trained_policy_reloads_to_identical_logits(
    architecture: str,
    tmp_path: Path,
    make_model: MakeModel,
    make_learner: Callable[..., PolicyLearner],
    make_batch: Callable[..., list[TrainSample]],
) -> None:
    learner = make_learner(make_model(architecture))
    learner.update(make_batch())
    learner.export(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, experts_implementation="eager")
    assert torch.equal(logits(loaded), logits(learner.model))
    assert loaded.config.tie_word_embeddings == (architecture == "llama_tied")
    assert (tmp_path / "generation_config.json").exists()
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert ("lm_head.weight" in names) == (architecture != "llama_tied")
    # per expert, as published checkpoints have them
    assert ("model.layers.0.mlp.experts.3.down_proj.weight" in names) == (architecture == "qwen3_moe")


@pytest.mark.parametrize("architecture", ["qwen3_moe", "llama_tied"])
def test_lora_export_equals_peft_merge_and_leaves_the_policy_alone(
    architecture: str, tmp_path: Path, make_model: MakeModel
) -> None:
    model = with_lora(make_model(architecture))
    merged = copy.deepcopy(model).merge_and_unload()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    export_policy(model, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    theirs = merged.state_dict()
    assert theirs.keys() == loaded.state_dict().keys()
    for name, weight in loaded.state_dict().items():
        assert torch.allclose(weight, theirs[name], atol=1e-6), name
    with model.disable_adapter():
        base = logits(model)
    assert (logits(loaded) - base).abs().max() > 0.1
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"]


def with_expert_lora(model: PreTrainedModel) -> nn.Module:
    torch.manual_seed(3)
    settings = LoraConfig(
        r=4, lora_alpha=2, target_modules=["q_proj"], target_parameters=EXPERTS, init_lora_weights=False
    )
    return get_peft_model(model, settings).eval()


def test_lora_on_fused_experts_and_router_exports_the_trained_policy(
    tmp_path: Path,
    make_model: MakeModel,
    make_learner: Callable[..., PolicyLearner],
    make_batch: Callable[..., list[TrainSample]],
) -> None:
    model = with_expert_lora(make_model("qwen3_moe"))
    learner = make_learner(model)
    learner.update(make_batch())
    merged = copy.deepcopy(model).merge_and_unload().state_dict()
    learner.export(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, experts_implementation="eager")
    assert torch.allclose(logits(loaded), logits(model), atol=1e-4)
    assert merged.keys() == loaded.state_dict().keys()
    for name, weight in loaded.state_dict().items():
        assert torch.allclose(weight, merged[name], atol=1e-6), name
    with model.disable_adapter():
        assert (logits(loaded) - logits(model)).abs().max() > 0.1


def test_expert_lora_in_bfloat16_merges_in_float32_and_rounds_once(
    tmp_path: Path, make_model: MakeModel
) -> None:
    model = with_expert_lora(make_model("qwen3_moe").to(torch.bfloat16))
    exact = with_expert_lora(make_model("qwen3_moe").to(torch.bfloat16).float())
    exact.load_state_dict(model.state_dict())
    expected = exact.merge_and_unload().model.layers[1].mlp.experts.down_proj.to(torch.bfloat16)
    export_policy(model, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert torch.equal(loaded.model.layers[1].mlp.experts.down_proj, expected)


def test_bfloat16_lora_merges_in_float32_and_rounds_once(tmp_path: Path, make_model: MakeModel) -> None:
    model = with_lora(make_model("llama").to(torch.bfloat16))
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    assert layer.lora_A["default"].weight.dtype == torch.float32
    export_policy(model, tmp_path)
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
    expected = (layer.base_layer.weight.float() + product).to(torch.bfloat16)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.model.layers[0].self_attn.q_proj.weight, expected)


def test_float32_master_weights_are_written_in_the_compute_type(
    tmp_path: Path, make_model: MakeModel
) -> None:
    model = make_model("qwen3_moe")
    set_compute_dtype(model, torch.bfloat16)
    export_policy(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Qwen3MoeForCausalLM"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert loaded.dtype == torch.bfloat16
    expected = model.model.layers[1].mlp.experts.down_proj.to(torch.bfloat16)
    assert torch.equal(loaded.model.layers[1].mlp.experts.down_proj, expected)
    assert model.dtype == torch.float32


# ------------------------------------------------------------------- what an engine lacks


def written(directory: Path) -> dict[str, torch.Tensor]:
    with safe_open(directory / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary


def adapted(model: PreTrainedModel, **targets: list[str]) -> nn.Module:
    torch.manual_seed(3)
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, **targets)).eval()


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ({"target_modules": ["q_proj"]}, ["model.layers.0.self_attn", "model.layers.1.self_attn"]),
        ({"target_parameters": EXPERTS[:1]}, ["model.layers.0.mlp", "model.layers.1.mlp"]),
        (
            {"target_modules": ["layers.1.self_attn.o_proj", "lm_head"]},
            ["lm_head", "model.layers.1.self_attn"],
        ),
    ],
)
def test_whole_blocks_are_sent_and_only_those_with_an_adapter(
    targets: dict[str, list[str]], expected: list[str], tmp_path: Path, make_model: MakeModel
) -> None:
    model = adapted(make_model("qwen3_moe"), **targets)
    export_policy(model, tmp_path / "whole")
    export_policy(model, tmp_path / "part", trained_only=True)
    whole, part = written(tmp_path / "whole"), written(tmp_path / "part")
    assert set(part) == {name for name in whole if name.startswith(tuple(f"{block}." for block in expected))}
    assert all(torch.equal(weight, whole[name]) for name, weight in part.items())
    # and nothing that was left out is other than in the checkpoint
    export_policy(make_model("qwen3_moe"), tmp_path / "checkpoint")
    checkpoint = written(tmp_path / "checkpoint")
    assert all(torch.equal(whole[name], checkpoint[name]) for name in whole.keys() - part.keys())
    assert not all(torch.equal(part[name], checkpoint[name]) for name in part)


@pytest.mark.parametrize("architecture", ["qwen3_moe", "llama_tied"])
def test_of_full_fine_tuning_everything_is_sent(
    architecture: str, tmp_path: Path, make_model: MakeModel
) -> None:
    model = make_model(architecture)
    for name, weight in model.named_parameters():
        weight.requires_grad_("mlp.gate." not in name)  # a frozen router shares its block with its experts
    export_policy(model, tmp_path / "whole")
    export_policy(model, tmp_path / "part", trained_only=True)
    whole, part = written(tmp_path / "whole"), written(tmp_path / "part")
    assert part.keys() == whole.keys()
    assert all(torch.equal(weight, whole[name]) for name, weight in part.items())
