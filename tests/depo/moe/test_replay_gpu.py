"""Recording and forcing routes on a CUDA device, with every implementation of the experts that runs there.

N tokens, L routed layers, K experts of a token.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from depo.models.loading import load_model
from depo.models.precision import autocast, route_in_float32
from depo.moe.routers import Router, find_routers, require_routers
from depo.moe.routes import ForcedRoutes, Recorder, force, hooked
from depo.recipe.schema import PretrainedPolicy

pytestmark = pytest.mark.gpu

MakeMoe = Callable[[str], PreTrainedModel]
EXPERTS, TOP_K = 8, 2
IMPLEMENTATIONS = ["eager", "grouped_mm", "batched_mm", "depo_grouped"]


def foreign_routes(routers: list[Router], n: int, device: torch.device) -> ForcedRoutes:
    """Experts that no router chose, forced on the first two thirds of N positions."""
    generator = torch.Generator().manual_seed(23)
    chosen = [torch.randperm(EXPERTS, generator=generator)[:TOP_K] for _ in range(len(routers) * n)]
    chosen_LNK = torch.stack(chosen).view(len(routers), n, TOP_K)
    return ForcedRoutes(chosen_LNK.to(device), (torch.arange(n) < n * 2 / 3)[:, None].to(device))


def own_routes(recorder: Recorder, device: torch.device) -> ForcedRoutes:
    chosen_LNK = torch.from_numpy(recorder.routes()).long().to(device)
    return ForcedRoutes(chosen_LNK, torch.ones(chosen_LNK.shape[1], 1, dtype=torch.bool, device=device))


def on(model: PreTrainedModel, device: torch.device, implementation: str) -> PreTrainedModel:
    model.set_experts_implementation(implementation)
    return model.to(device)


def logprobs(model: PreTrainedModel, tokens: Tensor, **hook: object) -> Tensor:
    with torch.no_grad(), hooked(find_routers(model), **hook):
        logits = model(input_ids=tokens.to(model.device), use_cache=False).logits
    return logits.float().log_softmax(-1).cpu()


def gradients(model: PreTrainedModel, tokens: Tensor, forced: ForcedRoutes) -> dict[str, Tensor]:
    model.train()
    model.zero_grad()
    seen: list[int] = []
    with hooked(find_routers(model), forced, observe=lambda index, *_: seen.append(index)):
        logits = model(input_ids=tokens.to(model.device), use_cache=False).logits
        logits.float().log_softmax(-1)[..., 3].sum().backward()
    assert seen == [0, 1, 2], "a layer that is computed again is not counted again"
    return {name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_recording_changes_nothing_and_the_own_record_gives_the_same(
    implementation: str, dtype: torch.dtype, cuda: torch.device, moe: MakeMoe, tokens: Tensor
) -> None:
    model = on(moe("qwen3_moe").to(dtype), cuda, implementation)
    routers = require_routers(model, "learner.routing_replay r2")
    recorder = Recorder(routers)
    plain = logprobs(model, tokens)
    # Eager experts add up with atomic operations, whose order is nobody's: not bit by bit there.
    exact = {"rtol": 0.0, "atol": 0.0 if implementation != "eager" else 1e-5 if dtype.itemsize == 4 else 0.1}
    torch.testing.assert_close(logprobs(model, tokens, observe=recorder), plain, **exact)
    assert recorder.routes().shape == (len(routers), tokens.numel(), TOP_K)
    torch.testing.assert_close(logprobs(model, tokens, forced=own_routes(recorder, cuda)), plain, **exact)
    torch.testing.assert_close(logprobs(model, tokens), plain, **exact)
    assert not any(router.module._forward_hooks for router in routers)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral", "deepseek_v3"])
def test_foreign_routes_give_what_they_give_on_a_cpu(
    architecture: str, implementation: str, cuda: torch.device, moe: MakeMoe, tokens: Tensor
) -> None:
    reference = on(moe(architecture), torch.device("cpu"), "eager")
    routers = find_routers(reference)
    expected = logprobs(reference, tokens, forced=foreign_routes(routers, tokens.numel(), reference.device))
    model = on(moe(architecture), cuda, implementation)
    assert model.config._experts_implementation == implementation
    found = logprobs(model, tokens, forced=foreign_routes(routers, tokens.numel(), cuda))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(found, logprobs(model, tokens), atol=0.1)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "checkpointed"])
def test_gradients_are_those_of_a_cpu_and_reach_router_and_experts(
    checkpointed: bool, implementation: str, cuda: torch.device, moe: MakeMoe, tokens: Tensor
) -> None:
    reference = on(moe("qwen3_moe"), torch.device("cpu"), "eager")
    n = tokens.numel()
    expected = gradients(reference, tokens, foreign_routes(find_routers(reference), n, reference.device))
    model = on(moe("qwen3_moe"), cuda, implementation)
    if checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found = gradients(model, tokens, foreign_routes(find_routers(model), n, cuda))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        if ".mlp." in name:
            assert found[name].abs().max() > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "checkpointed"])
def test_foreign_routes_in_bfloat16_are_near_float32(
    checkpointed: bool, implementation: str, cuda: torch.device, moe: MakeMoe, tokens: Tensor
) -> None:
    reference = on(moe("qwen3_moe"), torch.device("cpu"), "eager")
    routers, n = find_routers(reference), tokens.numel()
    routes = foreign_routes(routers, n, reference.device)
    everywhere = ForcedRoutes(routes.chosen_LNK, torch.ones_like(routes.mask_N1))
    expected = logprobs(reference, tokens, forced=everywhere)
    slopes = gradients(reference, tokens, everywhere)
    model = on(moe("qwen3_moe").to(torch.bfloat16), cuda, implementation)
    route_in_float32(model)
    forced = ForcedRoutes(everywhere.chosen_LNK.to(cuda), everywhere.mask_N1.to(cuda))
    assert (logprobs(model, tokens, forced=forced) - expected).abs().mean() < 0.15
    if checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found = gradients(model, tokens, forced)
    for name in ("gate.weight", "experts.gate_up_proj", "experts.down_proj"):
        names = [key for key in slopes if key.endswith(name)]
        assert len(names) == 3
        ours, theirs = (torch.cat([g[key].flatten() for key in names]) for g in (found, slopes))
        assert torch.cosine_similarity(ours, theirs, dim=0) > 0.95, name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_policy_as_it_is_loaded_there_computes_what_it_does_on_a_cpu(
    dtype: str, cuda: torch.device, moe: MakeMoe, tokens: Tensor, tmp_path
) -> None:
    """Whatever implementation ``load_model`` leaves or chooses for the experts on this device."""
    moe("qwen3_moe").save_pretrained(tmp_path)
    policy = PretrainedPolicy(model=str(tmp_path), dtype=dtype)
    found = []
    for device in (cuda, torch.device("cpu")):
        model = load_model(policy, device)
        routes = foreign_routes(find_routers(model), tokens.numel(), device)
        forced = ForcedRoutes(routes.chosen_LNK, torch.ones_like(routes.mask_N1))
        with autocast(model):
            values = logprobs(model, tokens, forced=forced)
            slopes = gradients(model, tokens, forced)
        assert all(slopes[name].abs().max() > 0 for name in slopes if ".mlp." in name)
        found.append((values, torch.cat([slopes[name].flatten() for name in sorted(slopes)])))
    (ours, our_slope), (theirs, their_slope) = found
    assert (ours - theirs).abs().mean() < (1e-4 if dtype == "float32" else 0.15)
    least = 0.99999 if dtype == "float32" else 0.95
    assert torch.cosine_similarity(our_slope, their_slope, dim=0) > least


def test_records_of_many_experts_are_laid_out_on_the_device(cuda: torch.device) -> None:
    """uint16, of which torch knows little."""
    record = np.arange(300, 312, dtype=np.uint16).reshape(3, 2, 2)
    forced = force([record, None], [5, 4], 6, cuda)
    assert forced is not None
    assert forced.chosen_LNK.device.type == forced.mask_N1.device.type == cuda.type
    assert forced.chosen_LNK[:, 1:4].cpu().tolist() == record.transpose(1, 0, 2).tolist()
    assert forced.mask_N1.flatten().tolist() == [False, True, True, True] + [False] * 8
