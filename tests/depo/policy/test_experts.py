"""Experts computed in sorted order against transformers' own loop over experts."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from depo.policy.experts import NAME, use_sorted_experts


def model(experts: int) -> Qwen3MoeForCausalLM:
    torch.manual_seed(5)
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=30,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            num_experts=experts,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            initializer_range=0.2,
        )
    )


@pytest.mark.parametrize(
    ("experts", "tokens"), [(4, 24), (16, 2)]
)  # the second leaves experts without tokens
def test_logits_and_gradients_equal_the_loop_over_experts(experts: int, tokens: int) -> None:
    ours = model(experts)
    loop = copy.deepcopy(ours)
    loop.set_experts_implementation("eager")
    use_sorted_experts(ours)
    assert ours.config._experts_implementation == NAME
    input_ids = torch.arange(tokens).unsqueeze(0) % 30
    weights = torch.randn(1, tokens, 30, generator=torch.Generator().manual_seed(1))
    logits = {}
    for name, each in (("ours", ours), ("loop", loop)):
        logits[name] = each(input_ids=input_ids).logits
        (logits[name] * weights).sum().backward()
    assert torch.allclose(logits["ours"], logits["loop"], rtol=1e-5, atol=1e-5)
    theirs = dict(loop.named_parameters())
    for name, parameter in ours.named_parameters():
        expected = theirs[name].grad
        assert float((parameter.grad - expected).norm()) <= 1e-5 * max(float(expected.norm()), 1e-3), name


def test_the_same_pass_gives_the_same_bits() -> None:
    ours = model(4)
    use_sorted_experts(ours)
    input_ids = torch.arange(24).unsqueeze(0)
    gradients = []
    for _ in range(2):
        ours.zero_grad()
        ours(input_ids=input_ids).logits.pow(2).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in ours.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
