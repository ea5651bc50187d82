"""The tiny policy is an ordinary Hugging Face directory, and its weights depend on its seed alone."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from depo.recipe.schema import TinyMoePolicy
from depo.toy.tiny_moe import build

SMALL = TinyMoePolicy(hidden_size=32, layers=2, heads=2, kv_heads=1, experts=4, expert_size=32)


def weights(directory):
    return AutoModelForCausalLM.from_pretrained(directory).state_dict()


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    build(SMALL, path, seed=7)
    return path


def test_the_default_policy_is_a_qwen3_moe_of_one_to_two_million_parameters(tmp_path):
    build(TinyMoePolicy(), tmp_path, seed=0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.model_type == "qwen3_moe"
    assert 1e6 <= sum(parameter.numel() for parameter in model.parameters()) <= 2e6
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_shapes_are_the_recipes(directory):
    config = AutoModelForCausalLM.from_pretrained(directory).config
    assert (config.hidden_size, config.num_hidden_layers, config.num_experts) == (32, 2, 4)
    assert (config.moe_intermediate_size, config.num_experts_per_tok) == (32, 2)
    assert config.router_aux_loss_coef == 0
    assert not config.output_router_logits


def test_every_character_is_a_token_and_decoding_gives_the_text_back(directory):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    text = "1234567890+-*="
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == len(set(ids)) == len(text)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    assert tokenizer.encode("a b", add_special_tokens=False) == [tokenizer.unk_token_id] * 3


def test_model_and_tokenizer_agree_on_end_and_padding(directory):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3


def test_weights_depend_on_seed_and_attempt_and_on_nothing_else(directory, tmp_path):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    build(SMALL, tmp_path / "again", seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(weights(tmp_path / "again"), weights(directory))
    build(SMALL, tmp_path / "other", seed=8)
    build(SMALL, tmp_path / "retry", seed=7, attempt=1)
    assert not equal(weights(tmp_path / "other"), weights(directory))
    assert not equal(weights(tmp_path / "retry"), weights(directory))
