"""Replay and telemetry through the learner's update, on a tiny qwen3_moe.

N sequences, P prompt and T completion tokens, L routed layers, K experts of a token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_samples import with_engine
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from depo.learner.learner import PolicyLearner
from depo.models.precision import route_in_float32, set_compute_dtype
from depo.moe.routers import find_routers
from depo.moe.routes import ForcedRoutes, Recorder, hooked
from depo.recipe import schema
from depo.types import TrainSample

MakeMoe = Callable[[str], PreTrainedModel]
LAYERS, EXPERTS, TOP_K = 3, 8, 2


def make_learner(model: nn.Module, **settings: object) -> PolicyLearner:
    defaults = {"lr": 1e-2, "correction": {"type": "none"}, "tokens_per_microbatch": 48}
    return PolicyLearner(
        model,
        schema.Learner.model_validate(defaults | settings),
        temperature=1.0,
        max_new_tokens=9,
        total_steps=10,
        pad_token_id=0,
    )


def make_batch(groups: int = 3, group_size: int = 4, routes: bool = False) -> list[TrainSample]:
    """Unequal lengths; with routes that no router would choose, and one row without any."""
    rng = np.random.default_rng(4)
    n = groups * group_size
    prompts = [rng.integers(2, 40, size=rng.integers(2, 6), dtype=np.int32) for _ in range(groups)]
    completions = [rng.integers(1, 40, size=rng.integers(1, 10), dtype=np.int32) for _ in range(n)]
    made = [
        np.array([rng.permutation(EXPERTS)[:TOP_K] for _ in range((len(c) - 1) * LAYERS)], dtype=np.uint8)
        for c in completions
    ]
    records: list[np.ndarray | None] = [record.reshape(-1, LAYERS, TOP_K) for record in made]
    records[2] = None
    engine = [rng.normal(-3.5, 0.5, size=len(c)).astype(np.float32) for c in completions]
    advantages = rng.normal(size=n).astype(np.float32)
    return [
        TrainSample.of_completion(
            prompts[i // group_size],
            completions[i],
            engine[i],
            advantage=float(advantages[i]),
            group=i // group_size,
            routes=records[i] if routes else None,
        )
        for i in range(n)
    ]


def alone(
    model: PreTrainedModel, batch: list[TrainSample], row: int, forced: bool
) -> tuple[np.ndarray, np.ndarray]:
    """One row without padding: log-probabilities (T,) and the routers' own choice (P + T, L, K)."""
    sample, start = batch[row], batch[row].start
    tokens = torch.tensor(sample.token_ids[None].astype(np.int64))
    routers = find_routers(model)
    recorder, routes = Recorder(routers), None
    if forced and sample.routes is not None:
        chosen = torch.zeros(LAYERS, tokens.shape[1], TOP_K, dtype=torch.long)
        mask = torch.zeros(tokens.shape[1], 1, dtype=torch.bool)
        chosen[:, start:-1] = torch.from_numpy(sample.routes).long().transpose(0, 1)
        mask[start:-1] = True
        routes = ForcedRoutes(chosen, mask)
    with torch.no_grad(), hooked(routers, routes, recorder):
        logprobs = model(input_ids=tokens, use_cache=False).logits[0].log_softmax(-1)
    picked = logprobs[start - 1 : -1].gather(1, tokens[0, start:, None]).squeeze(1)
    return picked.numpy(), recorder.routes().transpose(1, 0, 2)


def common(first: np.ndarray, second: np.ndarray) -> float:
    """Mean share of experts in common, (…, K) each, counted with Python's sets."""
    pairs = zip(first.reshape(-1, TOP_K).tolist(), second.reshape(-1, TOP_K).tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / TOP_K for a, b in pairs]))


def weights_of(learner: PolicyLearner) -> list[torch.Tensor]:
    return [p.detach().clone() for p in learner.model.parameters()]


@pytest.mark.parametrize("shape", [{}, {"minibatches": 3, "epochs": 2}], ids=["one step", "six steps"])
def test_r3_trains_and_measures_under_the_engines_routes(shape: dict, moe: MakeMoe) -> None:
    batch = make_batch(routes=True)
    expected = [alone(moe("qwen3_moe"), batch, row, forced=True)[0] for row in range(len(batch))]
    native = [alone(moe("qwen3_moe"), batch, row, forced=False)[0] for row in range(len(batch))]
    batch = with_engine(batch, expected)
    learner = make_learner(moe("qwen3_moe"), routing_replay="r3", **shape)
    result = learner.update(batch)
    for row, old in enumerate(result.old_logprobs):
        assert old == pytest.approx(expected[row], abs=1e-4)
    assert max(np.abs(a - b).max() for a, b in zip(expected, native, strict=True)) > 0.5
    assert result.metrics["mismatch_kl"] < 1e-8
    recorded = sum(len(s.routes) for s in batch if s.routes is not None)
    tokens = sum(sample.trained for sample in batch)
    assert result.metrics["routing/replayed"] == pytest.approx(recorded / tokens)
    # The KL at the end is that of the policy under the same routes.
    after = [alone(learner.model, batch, row, forced=True)[0] for row in range(len(batch))]
    d = np.concatenate(after) - np.concatenate(list(result.old_logprobs))
    assert result.metrics["policy_kl"] == pytest.approx(float(np.mean(np.expm1(d) - d)), rel=1e-3)

    plain = make_learner(moe("qwen3_moe"), **shape).update(batch)
    assert plain.metrics["mismatch_kl"] > 1e-2
    assert "routing/replayed" not in plain.metrics


def experts_called(learner: PolicyLearner, batch: list[TrainSample]) -> tuple[list, list]:
    """Indices (N, K) that the experts of layer 0 were called with: old-policy pass, passes of training."""
    calls: tuple[list, list] = ([], [])
    experts = learner.model.model.layers[0].mlp.experts
    handle = experts.register_forward_pre_hook(
        lambda module, args: calls[torch.is_grad_enabled()].append(args[1].clone())
    )
    learner.update(batch)
    handle.remove()
    return calls


def test_r2_forces_the_old_passes_experts_after_the_router_has_moved(moe: MakeMoe) -> None:
    same = {}
    for replay in ("r2", "none"):
        # One group a mini-batch, one micro-batch a mini-batch: the passes correspond one to one.
        settings = {"minibatches": 3, "tokens_per_microbatch": 512, "lr": 0.05, "routing_replay": replay}
        learner = make_learner(moe("qwen3_moe"), **settings)
        batch = make_batch()
        minibatches = learner.cut(batch, epoch=0)
        whole, trained = experts_called(learner, batch)
        parts = [rows for minibatch in minibatches for rows in minibatch]
        assert len(trained) == len(parts)
        shares = []
        for old, new, rows in zip(whole, trained, parts, strict=False):
            micro = learner.packing.collate(rows, batch)
            assert micro.packed is not None
            place = micro.packed.token_BS.flatten().numpy()
            old, new = old[place], new[place]
            width = micro.tokens_BS.shape[1]
            for b, row in enumerate(rows):  # padding and the last token are nobody's
                real = slice(b * width, b * width + len(batch[row]) - 1)
                shares.append(common(old[real].numpy(), new[real].numpy()))
        same[replay] = np.mean(shares)
    assert same["r2"] == 1.0
    assert same["none"] < 0.95


def test_r2_has_nothing_to_replay_where_there_is_no_old_pass(moe: MakeMoe) -> None:
    batch = make_batch()
    first, second = (make_learner(moe("qwen3_moe"), routing_replay=replay) for replay in ("r2", "none"))
    metrics = first.update(batch).metrics
    second.update(batch)
    assert metrics["routing/replayed"] == 0.0
    assert all(torch.equal(a, b) for a, b in zip(weights_of(first), weights_of(second), strict=True))
    several = make_learner(moe("qwen3_moe"), routing_replay="r2", minibatches=3)
    assert several.update(batch).metrics["routing/replayed"] == 1.0


@pytest.mark.parametrize("checkpointed", [False, True])
def test_watching_changes_no_bit_of_an_update(checkpointed: bool, moe: MakeMoe) -> None:
    learners = []
    for watched in (True, False):
        model = moe("qwen3_moe")
        if checkpointed:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        learners.append(make_learner(model, routing_telemetry=watched))
    seen, unseen = (learner.update(make_batch(routes=True)) for learner in learners)
    assert all(torch.equal(a, b) for a, b in zip(*map(weights_of, learners), strict=True))
    assert not any(name.startswith("routing/") for name in unseen.metrics)
    assert unseen.layers == {}
    assert seen.layers["layer"] == [0, 1, 2]
    assert all(len(values) == 3 for values in seen.layers.values())


@pytest.mark.parametrize(("minibatches", "checkpointed"), [(1, False), (3, False), (1, True)])
def test_metrics_are_what_plain_passes_over_single_rows_count(
    minibatches: int, checkpointed: bool, moe: MakeMoe
) -> None:
    batch = make_batch(routes=True)
    before, model = moe("qwen3_moe"), moe("qwen3_moe")
    if checkpointed:  # every layer runs twice, and is counted once
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    learner = make_learner(model, minibatches=minibatches, lr=0.05)
    result = learner.update(batch)
    load_LE = np.zeros((LAYERS, EXPERTS))
    with_engine, with_first = [], []
    for row, sample in enumerate(batch):
        start, tokens = sample.start, sample.trained
        chosen = alone(before, batch, row, forced=False)[1]
        later = alone(learner.model, batch, row, forced=False)[1]
        counted = slice(start - 1, start - 1 + tokens)
        for layer in range(LAYERS):
            load_LE[layer] += np.bincount(chosen[counted, layer].ravel(), minlength=EXPERTS)
        with_first += [(common(chosen[counted], later[counted]), tokens)]
        if sample.routes is not None and tokens > 1:
            with_engine += [(common(chosen[start:-1], sample.routes), tokens - 1)]
    assert result.layers["load_max"] == pytest.approx((load_LE.max(1) / load_LE.mean(1)).tolist())
    assert result.metrics["routing/load_cv"] == pytest.approx((load_LE.std(1) / load_LE.mean(1)).mean())
    assert result.metrics["routing/dead"] == pytest.approx((load_LE == 0).mean())
    for name, pairs in (("agreement_engine", with_engine), ("agreement_update", with_first)):
        values, weights = zip(*pairs, strict=True)
        assert result.metrics[f"routing/{name}"] == pytest.approx(
            np.average(values, weights=weights), abs=1e-6
        )
    assert 0.2 < result.metrics["routing/agreement_update"] < 1


def test_an_update_that_moves_nothing_moves_no_token_to_another_expert(moe: MakeMoe) -> None:
    metrics = make_learner(moe("qwen3_moe"), lr=1e-12).update(make_batch()).metrics
    assert metrics["routing/agreement_update"] == 1.0
    assert "routing/agreement_engine" not in metrics


def test_replay_trains_a_lora_policy_with_a_reference(moe: MakeMoe) -> None:
    torch.manual_seed(0)
    model = get_peft_model(moe("qwen3_moe"), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    batch = make_batch(routes=True)
    expected = [alone(moe("qwen3_moe"), batch, row, forced=True)[0] for row in range(len(batch))]
    result = make_learner(model, routing_replay="r3", kl_coef=0.1).update(batch)
    for row, old in enumerate(result.old_logprobs):
        assert old == pytest.approx(expected[row], abs=1e-4)
    # The reference routes natively: its distance is not zero although the policy has not moved yet.
    assert result.metrics["kl_ref"] > 1e-3


def test_a_dense_policy_trains_as_before(make_dense: Callable[[], PreTrainedModel]) -> None:
    result = make_learner(make_dense()).update(make_batch())
    assert not any(name.startswith("routing/") for name in result.metrics)
    assert result.layers == {}


def test_routes_that_do_not_fit_the_batch_are_refused(moe: MakeMoe) -> None:
    learner = make_learner(moe("qwen3_moe"), routing_replay="r3")
    with pytest.raises(ValueError, match="without routes"):
        learner.update(make_batch())
    batch = make_batch(routes=True)
    row = next(i for i, s in enumerate(batch) if s.trained > 3 and s.routes is not None)
    batch[row] = replace(batch[row], routes=batch[row].routes[1:])
    with pytest.raises(ValueError, match=f"row {row} of the batch has routes of shape"):
        learner.update(batch)


def test_the_alarm_survives_a_checkpoint(moe: MakeMoe, tmp_path: Path) -> None:
    learner = make_learner(moe("qwen3_moe"))
    learner.update(make_batch())
    learner.save(tmp_path)
    resumed = make_learner(moe("qwen3_moe"))
    resumed.load(tmp_path)
    assert resumed.routing.alarm.state() == learner.routing.alarm.state()
    assert resumed.routing.alarm.steps == 1


def test_a_router_pushed_towards_one_pair_of_experts_sets_off_the_alarm(moe: MakeMoe) -> None:
    learner = make_learner(moe("qwen3_moe"), lr=1e-12)
    counts = [learner.update(make_batch()).metrics["routing/collapsing"] for _ in range(6)]
    with torch.no_grad():  # in layer 1 one of two experts is always first, all others are tied behind it
        gate = learner.model.model.layers[1].mlp.gate.weight
        gate[2:] = 0
        gate[1] = -gate[0]
    counts += [learner.update(make_batch()).metrics["routing/collapsing"] for _ in range(3)]
    assert counts == [0, 0, 0, 0, 0, 0, 0, 0, 1]


@pytest.mark.gpu
@pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm", "depo_grouped"])
@pytest.mark.parametrize("replay", ["r3", "r2"])
def test_an_update_with_replay_on_a_gpu_is_that_of_the_cpu(
    replay: str, implementation: str, checkpointed: bool, cuda: torch.device, moe: MakeMoe
) -> None:
    results, weights = [], []
    for device in (torch.device("cpu"), cuda):
        model = moe("qwen3_moe")
        if device is cuda:
            model.set_experts_implementation(implementation)
            if checkpointed:
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        learner = make_learner(model.to(device), lr=1e-3, routing_replay=replay, minibatches=3)
        results.append(learner.update(make_batch(routes=True)))
        weights.append(torch.cat([w.flatten().cpu() for w in weights_of(learner)]))
    expected, found = results
    for name in expected.metrics.keys() - {"seconds"}:
        assert found.metrics[name] == pytest.approx(expected.metrics[name], rel=2e-2, abs=1e-3), name
    for one, other in zip(found.old_logprobs, expected.old_logprobs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    assert found.layers.keys() == expected.layers.keys()
    assert 0.5 < found.metrics["routing/replayed"] <= 1
    start = torch.cat([p.detach().flatten() for p in moe("qwen3_moe").parameters()])
    # Not each weight: Adam's steps have the sign of a gradient that may be next to nothing.
    assert torch.cosine_similarity(weights[1] - start, weights[0] - start, dim=0) > 0.995


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm", "depo_grouped"])
def test_r3_on_a_gpu_in_bfloat16_measures_under_the_engines_routes(
    implementation: str, cuda: torch.device, moe: MakeMoe
) -> None:
    batch = make_batch(routes=True)
    expected = [alone(moe("qwen3_moe"), batch, row, forced=True)[0] for row in range(len(batch))]
    native = [alone(moe("qwen3_moe"), batch, row, forced=False)[0] for row in range(len(batch))]
    model = moe("qwen3_moe").to(cuda)
    model.set_experts_implementation(implementation)
    set_compute_dtype(model, torch.bfloat16)
    route_in_float32(model)
    result = make_learner(model, routing_replay="r3").update(with_engine(batch, expected))
    assert all(np.isfinite(value) for value in result.metrics.values())
    off = np.abs(np.concatenate(result.old_logprobs) - np.concatenate(expected)).mean()
    assert off < 0.3 * np.abs(np.concatenate(native) - np.concatenate(expected)).mean()
