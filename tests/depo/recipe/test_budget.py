"""Batch arithmetic and memory of a recipe, against hand calculation and against what is really built."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from depo.learner.layout import split_by_tokens
from depo.learner.packing import Packing
from depo.recipe import budget
from depo.recipe.budget import Row, batch_rows, budget_text, memory_sections, policy_shape
from depo.recipe.schema import Recipe, TinyMoePolicy
from depo.toy.tiny_moe import WRITTEN, character_tokenizer, model_config
from depo.types import TrainSample

TINY = {
    "name": "tiny",
    "steps": 10,
    "policy": {"type": "tiny_moe"},
    "data": {"train": {"type": "arithmetic"}, "grade": {}, "max_prompt_tokens": 16},
    "reward": {"type": "exact"},
    "rollout": {"max_new_tokens": 8},
    "batch": {"prompts": 32, "group_size": 8},
    "learner": {"minibatches": 2, "epochs": 3, "tokens_per_microbatch": 1000},
    "selection": {"type": "thompson", "refill": True, "max_rounds": 4},
}

LONG = {"type": "tiny_moe", "max_positions": 8192}


def pretrained(model: str, **policy: object) -> Recipe:
    data = {"train": "organisation/problems", "max_prompt_tokens": 30}
    return Recipe.model_validate(
        TINY
        | {
            "policy": {"type": "pretrained", "model": model, **policy},
            "data": data,
            "reward": {"type": "math"},
        }
    )


def values(rows: list[Row]) -> dict[str, str]:
    return {row.name: row.value for row in rows}


def test_batch_arithmetic() -> None:
    rows = values(batch_rows(Recipe.model_validate(TINY)))
    assert rows["rollouts per step"] == "256"  # 32 · 8
    assert rows["generated per step, at most"] == "1,024"  # four rounds
    assert rows["trained tokens per step, at most"] == "6,144"  # 256 · (16 + 8)
    assert rows["optimizer steps per step"] == "6"
    assert rows["rollouts trained on in all, at most"] == "2,560"


def test_without_refill_a_step_is_one_round() -> None:
    recipe = Recipe.model_validate(TINY | {"selection": {"type": "thompson", "refill": False}})
    assert values(batch_rows(recipe))["generated per step, at most"] == "256"


@pytest.mark.parametrize("budget_tokens", [10, 24, 100, 1000, 100_000])
def test_micro_batches_are_as_many_as_the_learner_cuts_from_the_longest_batch(budget_tokens: int) -> None:
    learner = TINY["learner"] | {"tokens_per_microbatch": budget_tokens}
    recipe = Recipe.model_validate(TINY | {"learner": learner})
    lengths = torch.full((256,), recipe.context_length).numpy()
    halves = torch.arange(256).reshape(2, 128).numpy()
    cut = 3 * sum(len(split_by_tokens(half, lengths, budget_tokens, packed=True)) for half in halves)
    (row,) = [row for row in batch_rows(recipe) if row.name == "micro-batches per step, at most"]
    assert row.note == f"{cut:,} if all sequences have 24 tokens"
    assert int(row.value.replace(",", "")) >= cut


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("tokens", [(16, 8), (100, 900), (30, 4000)])
def test_no_lengths_are_cut_into_more_micro_batches_than_told(tokens: tuple[int, int], packing: bool) -> None:
    rng = np.random.default_rng(0)
    most_tokens, most_seen = sum(tokens), 0
    for budget_tokens in (most_tokens // 2, 3 * most_tokens, 16_384):
        learner = {"tokens_per_microbatch": budget_tokens, "packing": packing}
        lengths = {
            "data": TINY["data"] | {"max_prompt_tokens": tokens[0]},
            "rollout": {"max_new_tokens": tokens[1]},
        }
        recipe = Recipe.model_validate(TINY | lengths | {"policy": LONG, "learner": learner})
        told = int(values(batch_rows(recipe))["micro-batches per step, at most"].replace(",", ""))
        passes = Packing(budget_tokens, "packed" if packing else "padded", 0, torch.device("cpu"))
        for exponent in (0.2, 1.0, 4.0):
            prompts = [[g] * max(1, int(u * tokens[0])) for g, u in enumerate(rng.random(32))]
            completions = [[9] * max(1, int(u**exponent * tokens[1])) for u in rng.random(256)]
            batch = [TrainSample.of_completion(prompts[n // 8], completions[n]) for n in range(256)]
            cut = passes.cut(np.arange(256), batch)
            assert len(cut) <= told <= 256
            most_seen = max(most_seen, len(cut))
    assert most_seen > 256 * most_tokens / 16_384  # more than lengths that are all alike take


def test_parameters_of_the_tiny_policy_are_those_that_are_built() -> None:
    recipe = Recipe.model_validate(TINY)
    assert isinstance(recipe.policy, TinyMoePolicy)
    with torch.device("meta"):
        from transformers import Qwen3MoeForCausalLM

        model = Qwen3MoeForCausalLM(
            model_config(recipe.policy, character_tokenizer(recipe.policy.max_positions))
        )
    shape = policy_shape(recipe)
    assert shape is not None
    assert shape.parameters == sum(p.numel() for p in model.parameters())


def test_the_tiny_vocabulary_is_that_of_its_tokenizer() -> None:
    assert len(character_tokenizer(16)) == budget.TINY_VOCABULARY
    assert len(character_tokenizer(16, WRITTEN)) == budget.WRITTEN_VOCABULARY


def save_llama(directory: Path) -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        vocab_size=50,
    )
    model = LlamaForCausalLM(config)
    model.config.save_pretrained(directory)
    return model


def test_full_fine_tuning_holds_what_adamw_holds(tmp_path: Path) -> None:
    model = save_llama(tmp_path)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 3, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    state = sum(s[name].nbytes for s in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq"))
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    ((_, rows),) = memory_sections(pretrained(str(tmp_path)), policy_shape(pretrained(str(tmp_path))))
    sizes = {row.name: row.size for row in rows}
    assert sizes["gradients and AdamW"] == state + gradients
    assert sizes["weights"] == sum(p.nbytes for p in model.parameters())


def test_autocast_copies_the_weights_of_full_fine_tuning_in_bfloat16(tmp_path: Path) -> None:
    model = save_llama(tmp_path)
    copied = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(
                    lambda linear, _inputs, out: copied.append((linear.weight, out.dtype))
                )
        model(torch.zeros(1, 3, dtype=torch.long))
    assert {dtype for _, dtype in copied} == {torch.bfloat16}
    copies = 2 * sum(weight.numel() for weight, _ in copied)
    whole = 2 * sum(p.numel() for p in model.parameters())
    found = {}
    for dtype, lora in (("bfloat16", None), ("float32", None), ("bfloat16", {"rank": 2})):
        recipe = pretrained(str(tmp_path), dtype=dtype, lora=lora)
        ((_, rows),) = memory_sections(recipe, policy_shape(recipe))
        found[dtype, lora is None] = {row.name: row.size for row in rows}.get("copies for a pass, at most")
    assert found == {("bfloat16", True): whole, ("float32", True): None, ("bfloat16", False): None}
    assert copies <= whole


def test_frozen_routers_are_not_trained_and_take_their_memory_all_the_same(tmp_path: Path) -> None:
    config = Qwen3MoeConfig(
        num_hidden_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        moe_intermediate_size=16,
        num_experts=4,
        num_experts_per_tok=2,
        vocab_size=50,
    )
    model = Qwen3MoeForCausalLM(config)
    model.config.save_pretrained(tmp_path)
    recipe = pretrained(str(tmp_path), router="frozen")
    recipe = recipe.model_copy(update={"learner": recipe.learner.model_copy(update={"kl_coef": 0.1})})
    ((_, rows),) = memory_sections(recipe, policy_shape(recipe))
    sizes = {row.name: row.size for row in rows}
    whole = sum(p.nbytes for p in model.parameters())
    routers = sum(p.nbytes for name, p in model.named_parameters() if name.endswith("mlp.gate.weight"))
    assert routers > 0
    assert (sizes["weights"], sizes["reference policy"]) == (whole, whole)
    assert sizes["gradients and AdamW"] == 3 * (whole - routers)


def test_lora_trains_the_adapter_only_and_keeps_the_base_in_its_own_type(tmp_path: Path) -> None:
    total = sum(p.numel() for p in save_llama(tmp_path).parameters())
    recipe = pretrained(str(tmp_path), lora={"rank": 2, "targets": ["q_proj", "v_proj"]})
    adapter = 2 * (2 * (64 + 64) + 2 * (64 + 32))  # layers · rank · (inputs + outputs) of q and v
    ((_, rows),) = memory_sections(recipe, policy_shape(recipe))
    sizes = {row.name: row.size for row in rows}
    assert sizes["gradients and AdamW"] == 12 * adapter
    assert sizes["weights"] == 2 * total + 4 * adapter


def test_a_reference_policy_is_counted_when_there_is_a_kl_penalty(tmp_path: Path) -> None:
    save_llama(tmp_path)
    recipe = pretrained(str(tmp_path))
    with_kl = recipe.model_copy(update={"learner": recipe.learner.model_copy(update={"kl_coef": 0.1})})
    shape = policy_shape(recipe)
    names = [[row.name for row in memory_sections(r, shape)[0][1]] for r in (recipe, with_kl)]
    assert "reference policy" not in names[0]
    assert "reference policy" in names[1]


def test_ranks_share_weights_and_optimizer_but_not_what_generates(tmp_path: Path) -> None:
    model = save_llama(tmp_path)
    parameters = sum(p.numel() for p in model.parameters())
    layers = sum(p.numel() for p in model.model.layers.parameters())  # two
    recipe = pretrained(str(tmp_path))
    four = recipe.model_copy(
        update={"learner": recipe.learner.model_copy(update={"ranks": 4, "kl_coef": 0.1})}
    )
    ((title, rows),) = memory_sections(four, policy_shape(four))
    assert title.startswith("memory of each rank's device")
    sizes = {row.name: row.size for row in rows}
    assert sizes["weights"] == sizes["reference policy"] == 4 * parameters // 4
    assert sizes["gradients and AdamW"] == 12 * parameters // 4
    assert sizes["the whole policy"] == 4 * parameters
    assert sizes["whole for a pass"] == 4 * (parameters - layers) + 4 * layers


def test_an_engine_of_its_own_has_a_section_of_its_own_and_shares_it_among_its_devices(
    tmp_path: Path,
) -> None:
    parameters = sum(p.numel() for p in save_llama(tmp_path).parameters())
    recipe = pretrained(str(tmp_path))
    rollout = {"engine": "vllm", "max_new_tokens": 8, "vllm": {"tensor_parallel": 2, "max_num_seqs": 10}}
    recipe = Recipe.model_validate(recipe.model_dump() | {"rollout": rollout})
    learner, engine = memory_sections(recipe, policy_shape(recipe))
    sizes = {row.name: row.size for row in engine[1]}
    assert sizes["weights"] == parameters  # 2 bytes, 2 devices
    # 2 (keys, values) · 2 layers · 2 heads · 16 · 2 bytes · 10 sequences · (30 + 8) tokens, over 2 devices
    assert sizes["key-value cache, at most"] == 2 * 2 * 2 * 16 * 2 * 10 * 38 // 2
    assert "key-value cache, at most" not in {row.name for row in learner[1]}


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_about_what_a_forward_pass_keeps(
    kind: str, checkpointing: bool, tmp_path: Path
) -> None:
    """Counted on a real model: all that autograd saves in the forward pass, without the weights.
    Checkpointed, that is without the layer that the backward pass computes again."""
    config = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 8}
    config |= {"num_key_value_heads": 2, "intermediate_size": 384, "attn_implementation": "sdpa"}
    if kind == "llama":
        model: LlamaForCausalLM | Qwen3MoeForCausalLM = LlamaForCausalLM(LlamaConfig(**config))
    else:
        experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 96, "head_dim": 32}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**config, **experts))
    model.config.save_pretrained(tmp_path)
    recipe = pretrained(str(tmp_path), dtype="float32", gradient_checkpointing=checkpointing)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = recipe.learner.tokens_per_microbatch
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(torch.zeros(4, tokens // 4, dtype=torch.long)).logits.sum()
    shape = policy_shape(recipe)
    ((_, rows),) = memory_sections(recipe, shape)
    estimate = next(row.size for row in rows if row.name == "activations, estimate")
    assert shape is not None
    assert estimate is not None
    again = 4 * tokens * shape.layer_values if checkpointing else 0
    assert 0.6 < (estimate - again) / sum(kept.values()) < 1.7, loss


def test_what_is_not_at_hand_is_unknown_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    text = budget_text(pretrained("organisation/model"))
    unknown = [line.split("  ")[1] for line in text.splitlines() if "unknown" in line]
    assert unknown == [
        "parameters",
        "weights",
        "gradients and AdamW",
        "logits, one chunk",
        "activations, estimate",
        "copies for a pass, at most",
        "key-value cache, at most",
        "sum",
    ]
    assert "256" in text  # what does not depend on the model is still there


def test_an_architecture_that_is_not_understood_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    assert policy_shape(pretrained(str(tmp_path))) is None
    assert "unknown" in budget_text(pretrained(str(tmp_path)))
    assert "mamba is not counted, only llama, " in budget_text(pretrained(str(tmp_path)))


def test_the_table_fits_a_terminal(tmp_path: Path) -> None:
    save_llama(tmp_path)
    for recipe in (Recipe.model_validate(TINY), pretrained("organisation/model")):
        assert max(len(line) for line in budget_text(recipe).splitlines()) <= 120
