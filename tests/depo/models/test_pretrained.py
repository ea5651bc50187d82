from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_samples import equal_groups
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from depo.errors import UserError
from depo.learner.learner import PolicyLearner
from depo.models.loading import load_model
from depo.models.precision import compute_dtype
from depo.models.tokenizer import load_tokenizer
from depo.recipe import schema
from depo.recipe.schema import Lora, PretrainedPolicy

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def save_tokenizer(directory: Path, **special: str) -> None:
    vocabulary = {"<pad>": 0, "<eos>": 1} | {f"t{i}": i for i in range(2, 40)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t2"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory)


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("moe")
    torch.manual_seed(0)
    moe = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **moe, output_router_logits=True)).save_pretrained(directory)
    save_tokenizer(directory, eos_token="<eos>")
    return directory


@pytest.fixture
def copy_of_moe(moe: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(moe, tmp_path / "copy"))


def one_line(caught: pytest.ExceptionInfo[UserError]) -> str:
    message = str(caught.value)
    assert "\n" not in message
    return message


def learner_on(model: torch.nn.Module) -> PolicyLearner:
    return PolicyLearner(
        model, schema.Learner(lr=1e-3), temperature=1.0, max_new_tokens=5, total_steps=3, pad_token_id=0
    )


def test_full_fine_tuning_in_bfloat16_has_float32_weights_and_computes_in_bfloat16(moe: Path) -> None:
    model = load_model(PretrainedPolicy(model=str(moe), dtype="bfloat16"), "cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert compute_dtype(model) == torch.bfloat16
    assert model.config.output_router_logits is False
    learner = learner_on(model)
    seen = []
    model.lm_head.register_forward_hook(lambda _head, _inputs, logits: seen.append(logits.dtype))
    assert learner.update(equal_groups()).metrics["optimizer_steps"] == 1
    with learner.inference():
        assert not torch.is_grad_enabled()
        model(input_ids=torch.tensor([[3, 4]]))
    assert set(seen) == {torch.bfloat16}


def test_bfloat16_autocast_stays_close_to_float32(moe: Path) -> None:
    sequences = [([3, 4, 5], [6, 7, 8, 9])]
    exact = learner_on(load_model(PretrainedPolicy(model=str(moe), dtype="float32"), "cpu")).score(sequences)
    rounded = learner_on(load_model(PretrainedPolicy(model=str(moe), dtype="bfloat16"), "cpu")).score(
        sequences
    )
    assert 0 < np.abs(exact[0] - rounded[0]).max() < 0.05


def test_lora_in_bfloat16_has_a_bfloat16_base_and_a_float32_adapter(moe: Path) -> None:
    policy = PretrainedPolicy(
        model=str(moe), dtype="bfloat16", lora=Lora(rank=4, targets=["q_proj", "o_proj"])
    )
    model = load_model(policy, "cpu")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 2  # layers × targets × (A, B)
    assert all("lora_" in name for name in trained)
    dtypes = {("lora_" in name, p.dtype) for name, p in model.named_parameters() if ".gate." not in name}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    assert compute_dtype(model) == torch.bfloat16
    assert learner_on(model).update(equal_groups()).metrics["optimizer_steps"] == 1


def test_what_lora_begins_with_is_keyed_by_the_runs_seed_and_draws_from_no_global_stream(moe: Path) -> None:
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    policy = PretrainedPolicy(model=str(moe), lora=Lora(targets=["q_proj"], target_parameters=names))

    def adapter(seed: int, state: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(state)
        before = torch.get_rng_state()
        model = load_model(policy, "cpu", seed)
        assert torch.equal(torch.get_rng_state(), before)
        return {name: p.detach() for name, p in model.named_parameters() if "lora_A" in name}

    one, again, other = adapter(seed=3, state=1), adapter(seed=3, state=2), adapter(seed=4, state=1)
    assert len(one) == 2 * 3  # layers × (q_proj and two of the experts)
    for name, values in one.items():
        assert torch.equal(again[name], values), name
        assert not torch.equal(other[name], values), name


def test_gradient_checkpointing_changes_memory_not_numbers(moe: Path) -> None:
    results = []
    for checkpointing in (False, True):
        policy = PretrainedPolicy(
            model=str(moe),
            dtype="float32",
            lora=Lora(rank=4, targets=["q_proj"]),
            gradient_checkpointing=checkpointing,
        )
        torch.manual_seed(0)
        model = load_model(policy, "cpu")
        runs = []
        attention = model.get_base_model().model.layers[0].self_attn
        attention.register_forward_hook(lambda *_, runs=runs: runs.append(torch.is_grad_enabled()))
        learner = learner_on(model)
        runs.clear()
        metrics = learner.update(equal_groups()).metrics
        results.append((sum(runs), metrics["grad_norm"], metrics["loss"]))
    assert results[1][0] == 2 * results[0][0]  # the layer ran again in the backward pass
    assert results[0][1:] == pytest.approx(results[1][1:], rel=1e-6)


def test_gradient_checkpointing_changes_no_numbers_of_an_adapter_on_experts(moe: Path) -> None:
    lora = Lora(
        rank=4, targets=["q_proj"], target_parameters=["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    )
    norms = []
    for checkpointing in (False, True):
        policy = PretrainedPolicy(
            model=str(moe), dtype="float32", lora=lora, gradient_checkpointing=checkpointing
        )
        torch.manual_seed(0)
        learner = learner_on(load_model(policy, "cpu"))
        norms.append([learner.update(equal_groups()).metrics["grad_norm"] for _ in range(3)])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert norms[0][0] > 0


@pytest.mark.parametrize("targets", [["query"], ["q_proj", "query"]])
def test_a_lora_target_that_binds_to_nothing_is_named_with_what_exists(moe: Path, targets: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_model(PretrainedPolicy(model=str(moe), lora=Lora(targets=targets)), "cpu")
    message = one_line(caught)
    assert message.startswith("policy.lora.targets: query names no linear module of qwen3_moe")
    assert "k_proj, lm_head, o_proj, q_proj, v_proj" in message


def test_the_recipe_decides_the_type_not_the_checkpoints_config(moe: Path) -> None:
    assert json.loads((moe / "config.json").read_text())["dtype"] == "float32"
    model = load_model(PretrainedPolicy(model=str(moe), lora=Lora(rank=2)), "cpu")  # bfloat16 is the default
    assert model.get_base_model().model.embed_tokens.weight.dtype == torch.bfloat16
    assert model.get_base_model().model.layers[0].mlp.experts.down_proj.dtype == torch.bfloat16
    assert compute_dtype(model) == torch.bfloat16


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"targets": ["mlp.q_proj"]}, "policy.lora.targets: mlp.q_proj names no linear module of qwen3_moe"),
        (
            {"targets": [], "target_parameters": ["mlp.experts.gate_proj", "mlp.experts.down_proj"]},
            "policy.lora.target_parameters: mlp.experts.gate_proj names no parameter of qwen3_moe; it has "
            "mlp.experts.down_proj, mlp.experts.gate_up_proj, mlp.gate.weight, model.embed_tokens.weight",
        ),
    ],
)
def test_a_lora_that_would_bind_to_nothing_is_refused(moe: Path, lora: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_model(PretrainedPolicy(model=str(moe), lora=Lora.model_validate(lora)), "cpu")
    assert one_line(caught).startswith(message)


@pytest.mark.parametrize("settings", [{"targets": []}, {"target_parameters": ["x"], "dropout": 0.1}])
def test_a_lora_that_cannot_be_is_refused_with_the_recipe(settings: dict) -> None:
    with pytest.raises(ValueError, match=r"name at least one of|dropout must be 0"):
        Lora.model_validate(settings)


def test_target_parameters_adapt_the_fused_experts_and_nothing_else(moe: Path) -> None:
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    lora = Lora(rank=2, targets=["q_proj"], target_parameters=names)
    model = load_model(PretrainedPolicy(model=str(moe), dtype="bfloat16", lora=lora), "cpu")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 3 * 2  # layers × (q_proj and two of the experts) × (A, B)
    assert all(p.dtype == torch.float32 for p in trained.values())
    experts = sum(p.numel() for name, p in trained.items() if ".experts." in name)
    assert experts == 2 * 4 * 2 * ((32 + 2 * 16) + (16 + 32))  # layers · experts · rank · (inputs + outputs)
    before = {name: p.detach().clone() for name, p in trained.items()}
    learner = learner_on(model)
    for _ in range(2):  # A gets no gradient while B is zero
        learner.update(equal_groups())
    assert all(not torch.equal(p, before[name]) for name, p in trained.items())


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    policy = PretrainedPolicy(model=str(tmp_path / "nowhere"))
    for load in (lambda: load_model(policy, "cpu"), lambda: load_tokenizer(policy)):
        with pytest.raises(UserError) as caught:
            load()
        assert one_line(caught) == f"policy.model: directory {tmp_path}/nowhere does not exist"


def test_a_directory_without_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_model(PretrainedPolicy(model=str(tmp_path)), "cpu")
    assert "policy.model" in one_line(caught)
    assert "config.json" in str(caught.value)


def test_a_directory_without_weights_is_refused(copy_of_moe: Path) -> None:
    (copy_of_moe / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"policy\.model: cannot load directory .*safetensors"):
        load_model(PretrainedPolicy(model=str(copy_of_moe)), "cpu")


def test_weights_that_leave_parameters_at_random_are_refused(copy_of_moe: Path) -> None:
    settings = json.loads((copy_of_moe / "config.json").read_text())
    settings["num_hidden_layers"] = 3
    (copy_of_moe / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"do not fill the model .*; \d+ missing .* model\.layers\.2\."):
        load_model(PretrainedPolicy(model=str(copy_of_moe)), "cpu")


def test_weights_of_another_shape_are_refused_by_name(copy_of_moe: Path) -> None:
    settings = json.loads((copy_of_moe / "config.json").read_text())
    settings["num_attention_heads"] *= 2
    (copy_of_moe / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"misshapen, the first is model\.layers\.0\.self_attn\.[a-z]_proj"):
        load_model(PretrainedPolicy(model=str(copy_of_moe)), "cpu")


def test_a_directory_without_tokenizer_is_refused(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:
        load_tokenizer(PretrainedPolicy(model=str(tmp_path)))
    assert one_line(caught).startswith(f"policy.model: {tmp_path} has no tokenizer")


def test_a_tokenizer_without_end_token_is_refused(copy_of_moe: Path) -> None:
    save_tokenizer(copy_of_moe)
    with pytest.raises(UserError, match="no end-of-sequence token"):
        load_tokenizer(PretrainedPolicy(model=str(copy_of_moe)))


def test_a_tokenizer_without_padding_token_pads_with_the_end_token(moe: Path) -> None:
    tokenizer = load_tokenizer(PretrainedPolicy(model=str(moe)))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1


def test_a_hub_id_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    policy = PretrainedPolicy(model="nobody/no-such-model")
    for load in (lambda: load_model(policy, "cpu"), lambda: load_tokenizer(policy)):
        with pytest.raises(UserError) as caught:
            load()
        assert one_line(caught).startswith(
            "policy.model: there is no directory nobody/no-such-model, and as a hub id it cannot be loaded: "
        )


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(copy_of_moe: Path) -> None:
    settings = json.loads((copy_of_moe / "config.json").read_text())
    (copy_of_moe / "config.json").write_text(json.dumps(settings | {"vocab_size": 39}))
    with pytest.raises(UserError) as caught:
        load_tokenizer(PretrainedPolicy(model=str(copy_of_moe)))
    start = f"policy.model: the tokenizer of {copy_of_moe} has token 39 ('t39'), but the embedding has"
    assert one_line(caught).startswith(start)


def test_a_file_of_weights_that_is_cut_is_named(copy_of_moe: Path) -> None:
    weights = copy_of_moe / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError) as caught:
        load_model(PretrainedPolicy(model=str(copy_of_moe)), "cpu")
    assert f"{weights} is cut: " in one_line(caught)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(copy_of_moe: Path, value: float) -> None:
    weights = load_file(copy_of_moe / "model.safetensors")
    weights["model.norm.weight"][3] = value
    save_file(weights, copy_of_moe / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError) as caught:
        load_model(PretrainedPolicy(model=str(copy_of_moe)), "cpu")
    assert one_line(caught) == (
        f"policy.model: the weights of {copy_of_moe} hold NaN or infinity, first in model.norm.weight"
    )
