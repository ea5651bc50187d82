"""Recording and forcing routes on the real transformers models, against references written out here.

N tokens, L routed layers, E experts, K experts of a token.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, GptOssConfig, LlamaConfig, PreTrainedModel

from depo.errors import UserError
from depo.models.experts import use_sorted_experts
from depo.moe.routers import Router, find_routers, require_routers
from depo.moe.routes import ForcedRoutes, Recorder, hooked

SIGMOID = ("deepseek_v3", "glm4_moe", "dots1")
ARCHITECTURES = [
    "qwen3_moe",
    "qwen2_moe",
    "qwen3_next",
    "olmoe",
    "flex_olmo",
    "mixtral",
    "deepseek_v2",
    *SIGMOID,
]
EXPERTS, TOP_K = 8, 2
MakeMoe = Callable[[str], PreTrainedModel]


def random_routes(routers: list[Router], n: int, share: float = 1.0) -> ForcedRoutes:
    """Experts that no router chose, forced on the first ``share`` of N positions."""
    generator = torch.Generator().manual_seed(23)
    chosen = [torch.randperm(EXPERTS, generator=generator)[:TOP_K] for _ in range(len(routers) * n)]
    mask_N1 = (torch.arange(n) < share * n)[:, None]
    return ForcedRoutes(torch.stack(chosen).view(len(routers), n, TOP_K), mask_N1)


def everywhere(routes_LNK: Tensor) -> ForcedRoutes:
    return ForcedRoutes(routes_LNK.long(), torch.ones(routes_LNK.shape[1], 1, dtype=torch.bool))


def logits(model: nn.Module, tokens: Tensor, routers: list[Router] | None = None, **hook: object) -> Tensor:
    with torch.no_grad(), hooked(routers or [], **hook):
        return model(input_ids=tokens, use_cache=False).logits


def calls_of_experts(model: nn.Module, tokens: Tensor, routers: list[Router], **hook: object) -> list[tuple]:
    """(module, hidden (N, H), indices (N, K), weights (N, K), output (N, H)) of each layer's experts."""
    calls: list[tuple] = []
    handles = [
        module.register_forward_hook(lambda m, args, out: calls.append((m, *args, out)))
        for module in model.modules()
        if type(module).__name__.endswith("Experts")
    ]
    logits(model, tokens, routers, **hook)
    for handle in handles:
        handle.remove()
    return calls


def weights_by_hand(architecture: str, router: nn.Module, hidden: Tensor, chosen: list[int]) -> list[float]:
    """One token's expert weights, from the papers' formulas in plain arithmetic."""
    score = (router.weight.double() @ hidden.double()).tolist()
    if architecture in SIGMOID:
        score = [1 / (1 + pow(2.718281828459045, -s)) for s in score]
    else:
        exponentials = [pow(2.718281828459045, s) for s in score]
        score = [e / sum(exponentials) for e in exponentials]
    weights = [score[e] for e in chosen]
    if architecture in ("qwen3_moe", "qwen3_next", "mixtral", *SIGMOID):
        weights = [w / sum(weights) for w in weights]
    scale = 2.5 if architecture in ("deepseek_v2", *SIGMOID) else 1.0
    return [w * scale for w in weights]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recording_leaves_the_models_output_bit_by_bit_alone(
    architecture: str, moe: MakeMoe, tokens: Tensor
) -> None:
    model = moe(architecture)
    routers = require_routers(model, "learner.routing_replay r2")
    recorder = Recorder(routers)
    plain = logits(model, tokens)
    assert torch.equal(logits(model, tokens, routers, observe=recorder), plain)
    recorded = recorder.routes()
    assert recorded.shape == (len(routers), tokens.numel(), TOP_K)
    assert recorded.dtype.itemsize == 1
    # What was recorded is what the experts were called with.
    for layer, (_, _, chosen_NK, _, _) in zip(
        recorded, calls_of_experts(model, tokens, routers), strict=True
    ):
        assert torch.equal(torch.from_numpy(layer).long(), chosen_NK)
    # And replaying it is the stock model again, without leaving a trace on it.
    assert torch.equal(logits(model, tokens, routers, forced=everywhere(torch.from_numpy(recorded))), plain)
    assert torch.equal(logits(model, tokens), plain)
    assert not any(router.module._forward_hooks for router in routers)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_forced_experts_work_with_the_weights_of_the_architectures_formula(
    architecture: str, moe: MakeMoe, tokens: Tensor
) -> None:
    model = moe(architecture)
    routers = find_routers(model)
    forced = random_routes(routers, tokens.numel())
    calls = calls_of_experts(model, tokens, routers, forced=forced)
    assert len(calls) == len(routers) > 1
    for layer, (experts, hidden_NH, chosen_NK, weights_NK, output_NH) in enumerate(calls):
        assert torch.equal(chosen_NK, forced.chosen_LNK[layer])
        for n in (0, 5, 20):
            by_hand = weights_by_hand(
                architecture, routers[layer].module, hidden_NH[n], chosen_NK[n].tolist()
            )
            assert weights_NK[n].tolist() == pytest.approx(by_hand, rel=1e-4)
            expected = 0
            for expert, weight in zip(chosen_NK[n].tolist(), by_hand, strict=True):
                gate, up = (experts.gate_up_proj[expert] @ hidden_NH[n]).chunk(2)
                expected = expected + weight * (experts.down_proj[expert] @ (torch.sigmoid(gate) * gate * up))
            assert torch.allclose(output_NH[n], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_reach_the_router_and_the_forced_experts_and_no_others(
    architecture: str, moe: MakeMoe, tokens: Tensor
) -> None:
    model = moe(architecture)
    routers = find_routers(model)
    forced = random_routes(routers, tokens.numel())
    forced.chosen_LNK.clamp_(max=EXPERTS - 2)  # nobody goes to the last expert
    with hooked(routers, forced):
        model(input_ids=tokens, use_cache=False).logits.logsumexp(-1).sum().backward()
    experts = [module for module in model.modules() if type(module).__name__.endswith("Experts")]
    for layer, (router, module) in enumerate(zip(routers, experts, strict=True)):
        assert router.module.weight.grad.abs().max() > 0
        used = torch.zeros(EXPERTS, dtype=torch.bool)
        used[forced.chosen_LNK[layer].unique()] = True
        assert not used[-1]
        assert torch.equal(module.down_proj.grad.abs().amax((1, 2)) > 0, used)


@pytest.mark.parametrize("architecture", ["qwen3_moe", "deepseek_v3"])
def test_the_routers_gradient_is_the_slope_of_the_replayed_function(
    architecture: str, moe: MakeMoe, tokens: Tensor
) -> None:
    """Central differences in float64; forced indices leave no kink where the router's choice flips."""
    model = moe(architecture).double()
    routers = find_routers(model)
    forced = random_routes(routers, tokens.numel())
    weight = routers[0].module.weight

    def value() -> Tensor:
        with hooked(routers, forced):
            return model(input_ids=tokens, use_cache=False).logits.logsumexp(-1).sum()

    with hooked(routers, forced):
        model(input_ids=tokens, use_cache=False).logits.logsumexp(-1).sum().backward()
    for entry in ((0, 3), (4, 17)):
        with torch.no_grad():
            before = weight[entry].clone()
            weight[entry] = before + 1e-3
            above = value()
            weight[entry] = before - 1e-3
            slope = float(above - value()) / 2e-3
            weight[entry] = before
        # The routers' softmax is float32 whatever the model is.
        assert float(weight.grad[entry]) == pytest.approx(slope, rel=2e-2, abs=1e-3)


def test_positions_without_a_record_are_routed_natively(moe: MakeMoe, tokens: Tensor) -> None:
    model = moe("qwen3_moe")
    routers = find_routers(model)
    forced = random_routes(routers, tokens.numel(), share=1 / 3)  # the first of the three sequences
    recorder = Recorder(routers)
    plain, partly = logits(model, tokens), logits(model, tokens, routers, forced=forced, observe=recorder)
    assert torch.allclose(partly[1:], plain[1:], atol=1e-5)
    assert not torch.allclose(partly[0], plain[0], atol=1e-2)
    native = torch.from_numpy(recorder.routes()).long()
    for layer, (_, _, chosen_NK, _, _) in enumerate(calls_of_experts(model, tokens, routers, forced=forced)):
        assert torch.equal(chosen_NK[:7], forced.chosen_LNK[layer, :7])
        assert torch.equal(chosen_NK[7:], native[layer, 7:])


@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm", "depo_sorted"])
@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral", "deepseek_v3"])
def test_every_implementation_of_the_experts_takes_forced_routes(
    architecture: str, implementation: str, moe: MakeMoe, tokens: Tensor
) -> None:
    model = moe(architecture)
    routers = find_routers(model)
    forced = random_routes(routers, tokens.numel())
    eager, plain = logits(model, tokens, routers, forced=forced), logits(model, tokens)
    if implementation == "depo_sorted":
        use_sorted_experts(model)
    else:
        model.set_experts_implementation(implementation)
    assert model.config._experts_implementation == implementation
    replayed = logits(model, tokens, routers, forced=forced)
    assert torch.allclose(replayed, eager, atol=1e-4)
    assert not torch.allclose(replayed, plain, atol=1e-1)


def gradients(model: PreTrainedModel, tokens: Tensor, forced: ForcedRoutes) -> dict[str, Tensor]:
    model.train()
    model.zero_grad()
    seen: list[int] = []
    with hooked(find_routers(model), forced, observe=lambda index, *_: seen.append(index)):
        model(input_ids=tokens, use_cache=False).logits.logsumexp(-1).sum().backward()
    assert seen == [0, 1, 2], "a layer that is computed again is not counted again"
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_gradient_checkpointing_sees_the_same_routes(moe: MakeMoe, tokens: Tensor) -> None:
    model = moe("qwen3_moe")
    forced = random_routes(find_routers(model), tokens.numel())
    plain = gradients(model, tokens, forced)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again = gradients(model, tokens, forced)
    assert all(torch.allclose(again[name], plain[name], rtol=1e-5, atol=1e-6) for name in plain)


def test_a_checkpointed_backward_outside_of_the_block_is_an_error(moe: MakeMoe, tokens: Tensor) -> None:
    model = moe("qwen3_moe").train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    routers = find_routers(model)
    with hooked(routers, random_routes(routers, tokens.numel())):
        value = model(input_ids=tokens, use_cache=False).logits.sum()
    with pytest.raises(RuntimeError, match=r"torch\.utils\.checkpoint"):
        value.backward()


def test_replay_works_inside_a_peft_model(moe: MakeMoe, tokens: Tensor) -> None:
    bare = moe("qwen3_moe")
    forced = random_routes(find_routers(bare), tokens.numel())
    expected = logits(bare, tokens, find_routers(bare), forced=forced)
    torch.manual_seed(0)
    model = get_peft_model(bare, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    routers = require_routers(model, "learner.routing_replay r3")
    assert torch.allclose(logits(model, tokens, routers, forced=forced), expected, atol=1e-5)
    with hooked(routers, forced):
        model(input_ids=tokens, use_cache=False).logits.logsumexp(-1).sum().backward()
    adapters = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert adapters
    assert all(p.grad.abs().max() > 0 for p in adapters)


def test_a_router_that_is_itself_adapted_is_still_found(moe: MakeMoe, tokens: Tensor) -> None:
    adapter = LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["mlp.gate.weight"])
    model = get_peft_model(moe("qwen3_moe"), adapter)
    routers = find_routers(model)
    assert len(routers) == 3
    forced = random_routes(routers, tokens.numel())
    assert not torch.allclose(logits(model, tokens, routers, forced=forced), logits(model, tokens), atol=0.1)


def test_packed_sequences_take_the_routes_of_each(moe: MakeMoe, tokens: Tensor) -> None:
    model = moe("qwen3_moe")
    routers = find_routers(model)
    forced = random_routes(routers, tokens.numel())
    positions = torch.arange(7).repeat(3)[None]
    with torch.no_grad(), hooked(routers, forced):
        packed = model(input_ids=tokens.view(1, -1), position_ids=positions, use_cache=False).logits
    apart = logits(model, tokens, routers, forced=forced)
    assert torch.allclose(packed.view_as(apart), apart, atol=1e-4)


def test_sharded_parameters_are_no_obstacle(moe: MakeMoe, tokens: Tensor, tmp_path) -> None:
    """FSDP2 on one rank: hooks read a router's output and never its parameters."""
    plain, model = moe("qwen3_moe"), moe("qwen3_moe")
    forced = random_routes(find_routers(plain), tokens.numel())
    expected = gradients(plain, tokens, forced)
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        mesh = dist.init_device_mesh("cpu", (1,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        sharded = gradients(model, tokens, forced)
        for name, gradient in expected.items():
            assert torch.allclose(sharded[name].full_tensor(), gradient, rtol=1e-4, atol=1e-5), name
    finally:
        dist.destroy_process_group()


DENSE = LlamaConfig(vocab_size=40, hidden_size=32, intermediate_size=24, num_hidden_layers=1)
UNKNOWN = GptOssConfig(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=16,
    num_hidden_layers=1,
    num_local_experts=4,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=8,
)


@pytest.mark.parametrize("settings", [DENSE, UNKNOWN], ids=["dense", "unknown"])
def test_models_without_a_known_router_are_refused_with_what_is_known(settings) -> None:
    model = AutoModelForCausalLM.from_config(settings)
    assert find_routers(model) == []
    with pytest.raises(UserError) as error:
        require_routers(model, "learner.routing_replay r2")
    for words in ("learner.routing_replay r2", settings.model_type, "qwen3_moe", "mixtral", "deepseek_v3"):
        assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_router_that_computes_something_else_is_refused(moe: MakeMoe) -> None:
    model = moe("qwen3_moe")
    routers = find_routers(model)
    stock = routers[1].module.forward

    def doubled(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores, weights, chosen = stock(hidden)
        return scores, 2 * weights, chosen

    routers[1].module.forward = doubled
    with pytest.raises(UserError, match="layer 1"):
        require_routers(model, "learner.routing_replay r2")
