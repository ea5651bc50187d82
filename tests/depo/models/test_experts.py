"""Experts computed in sorted order against transformers' own loop over experts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from depo.learner.learner import PolicyLearner
from depo.models.experts import GROUPED, NAME, keep_casts, use_grouped_experts, use_sorted_experts
from depo.models.precision import autocast, set_compute_dtype
from depo.recipe import schema


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
@pytest.mark.parametrize("use", [use_sorted_experts, use_grouped_experts])
def test_logits_and_gradients_equal_the_loop_over_experts(experts: int, tokens: int, use) -> None:
    ours = model(experts)
    loop = copy.deepcopy(ours)
    loop.set_experts_implementation("eager")
    use(ours)
    assert ours.config._experts_implementation == (NAME if use is use_sorted_experts else GROUPED)
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


class CastsToBfloat16(TorchDispatchMode):
    """Counts the numbers of float32 tensors of one shape, or of slices of it, that are cast to bfloat16."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.shapes = (weight.shape, weight.shape[1:])
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default and result.dtype == torch.bfloat16:
            self.count += result.numel() if result.shape in self.shapes else 0
        return result


@torch.no_grad()
def test_experts_are_cast_once_for_all_passes_of_a_block() -> None:
    moe = model(4).eval()
    use_sorted_experts(moe)
    set_compute_dtype(moe, torch.bfloat16)
    input_ids, weight = torch.arange(24).unsqueeze(0), moe.model.layers[0].mlp.experts.down_proj
    with autocast(moe):
        plain = moe(input_ids=input_ids).logits
    with autocast(moe), keep_casts():
        first = moe(input_ids=input_ids).logits
        with CastsToBfloat16(weight) as casts:
            second = moe(input_ids=input_ids).logits
    assert casts.count == 0
    assert torch.equal(first, plain)
    assert torch.equal(second, plain)
    with autocast(moe), keep_casts(), CastsToBfloat16(weight) as casts:
        moe(input_ids=input_ids)
        moe(input_ids=input_ids)
    assert casts.count == 2 * weight.numel()  # two layers, once each


def test_a_learner_scores_with_the_weights_of_its_last_update() -> None:
    moe = model(4)
    use_sorted_experts(moe)
    set_compute_dtype(moe, torch.bfloat16)
    learner = PolicyLearner(
        moe, schema.Learner(), temperature=1.0, max_new_tokens=4, total_steps=1, pad_token_id=0
    )
    sequence = [([3, 4, 5], [6, 7, 8])]
    before = learner.score(sequence)[0]
    with torch.no_grad():
        for layer in moe.model.layers:
            layer.mlp.experts.down_proj.mul_(-3)
    after = learner.score(sequence)[0]
    assert abs(after - before).max() > 0.1
    loop = copy.deepcopy(moe)
    loop.set_experts_implementation("eager")
    other = PolicyLearner(
        loop, schema.Learner(), temperature=1.0, max_new_tokens=4, total_steps=1, pad_token_id=0
    )
    assert after == pytest.approx(other.score(sequence)[0], abs=0.05)


def test_an_upcycled_llama_s_experts_are_computed_so_too() -> None:
    sizes = {"vocab_size": 30, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    mixtral = MixtralForCausalLM(MixtralConfig(**sizes, **heads)).eval()
    loop = copy.deepcopy(mixtral)
    loop.set_experts_implementation("eager")
    use_sorted_experts(mixtral)
    assert mixtral.config._experts_implementation == NAME
    input_ids = torch.arange(24).unsqueeze(0)
    ours, theirs = mixtral(input_ids=input_ids).logits, loop(input_ids=input_ids).logits
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def grouped_against_the_loop(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = model(4).to(device)
    loop = copy.deepcopy(ours)
    loop.set_experts_implementation("eager")
    use_grouped_experts(ours)
    types: list[torch.dtype] = []
    kernel = torch.nn.functional.grouped_mm

    def noted(left: torch.Tensor, right: torch.Tensor, **options) -> torch.Tensor:
        types.extend((left.dtype, right.dtype))
        return kernel(left, right, **options)

    monkeypatch.setattr("torch.nn.functional.grouped_mm", noted)
    input_ids = torch.arange(24, device=device).unsqueeze(0)
    slopes, logits = [], []
    for each in (ours, loop):
        set_compute_dtype(each, torch.bfloat16)
        with autocast(each):
            logits.append(each(input_ids=input_ids).logits.float())
        logits[-1].log_softmax(-1)[..., 3].sum().backward()
        experts = [layer.mlp.experts for layer in each.model.layers]
        slopes.append(torch.cat([e.gate_up_proj.grad.flatten() for e in experts]))
    assert types == [torch.bfloat16] * 8, "two layers, two products, two factors"
    assert slopes[0].dtype == torch.float32
    assert torch.allclose(logits[0], logits[1], atol=0.1)
    assert torch.cosine_similarity(*slopes, dim=0) > 0.99


def test_grouped_experts_compute_in_autocasts_type(monkeypatch: pytest.MonkeyPatch) -> None:
    grouped_against_the_loop(torch.device("cpu"), monkeypatch)


@pytest.mark.gpu
def test_grouped_experts_compute_in_autocasts_type_on_a_gpu(
    cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped_against_the_loop(cuda, monkeypatch)


def test_rows_that_the_grouped_kernel_does_not_take_go_through_the_loop() -> None:
    sizes = {"vocab_size": 30, "hidden_size": 32, "intermediate_size": 12, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    mixtral = MixtralForCausalLM(MixtralConfig(**sizes, **heads))
    use_grouped_experts(mixtral)
    assert mixtral.config._experts_implementation == "eager"
