"""Samples of several turns, with masked tool output between them, against an explicit loop over the trained
tokens of each sequence alone. A prompt with its completion is the same with a suffix for a mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from made_samples import VOCABULARY, build_batch
from torch import Tensor

from depo.learner.learner import PolicyLearner, routed
from depo.learner.loss import Tally
from depo.moe.routers import find_routers
from depo.moe.routes import ForcedRoutes, Recorder, hooked
from depo.types import TrainSample

LAYERS, EXPERTS, TOP_K = 2, 4, 2
TEMPERATURE, MAX_NEW_TOKENS = 0.8, 9  # of make_learner
CLIP = {"clip_low": 0.1, "clip_high": 0.15}
LOSSES = {
    "grpo": {"type": "grpo", **CLIP},
    "dapo": {"type": "dapo", **CLIP},
    "dr_grpo": {"type": "dr_grpo", **CLIP},
    "gspo": {"type": "gspo", "clip_low": 0.02, "clip_high": 0.03},
    "cispo": {"type": "cispo", "clip_high": 1.1},
}
CAP = 1.05


def random_routes(rng: np.random.Generator, tokens: int) -> np.ndarray:
    made = [rng.permutation(EXPERTS)[:TOP_K] for _ in range(tokens * LAYERS)]
    return np.array(made, dtype=np.uint8).reshape(tokens, LAYERS, TOP_K)


def three_turns(routes: bool = False) -> list[TrainSample]:
    """Two groups of three: prompt, answer, tool output, answer, tool output, answer, of unequal lengths. The
    last sample of each group has one turn, the first has an advantage for each token. Routes of the prompt
    are the same in two of the three."""
    rng = np.random.default_rng(8)
    batch = []
    for group in range(2):
        prompt = rng.integers(2, VOCABULARY, size=3 + group)
        of_prompt, others = (random_routes(rng, len(prompt)) for _ in range(2))
        for index in range(3):
            turns = [rng.integers(1, VOCABULARY, size=n) for n in rng.integers(1, 6, size=5)]
            turns = turns[:1] if index == 2 else turns
            mask = [np.zeros(len(prompt)), *(np.full(len(t), i % 2 == 0) for i, t in enumerate(turns))]
            tokens = np.concatenate([prompt, *turns]).astype(np.int32)
            made = random_routes(rng, len(tokens) - 1)
            made[: len(prompt)] = others if index == 1 else of_prompt
            batch.append(
                TrainSample(
                    token_ids=tokens,
                    loss_mask=np.concatenate(mask).astype(bool),
                    logprobs=rng.normal(-3.5, 0.5, size=len(tokens)).astype(np.float32),
                    advantage=rng.normal(size=len(tokens)).astype(np.float32) if not index else rng.normal(),
                    group=group,
                    index=index,
                    routes=made if routes else None,
                )
            )
    return batch


@dataclass
class Hand:
    """Loss (with its graph), share of clipped tokens, and log-probabilities of the trained tokens."""

    loss: Tensor
    clipped: float
    logprobs: list[np.ndarray]


def forced_on(sample: TrainSample) -> ForcedRoutes | None:
    """The sample's routes on its own positions; all tokens but the last have some."""
    if sample.routes is None:
        return None
    chosen = torch.zeros(LAYERS, len(sample), TOP_K, dtype=torch.long)
    chosen[:, :-1] = torch.from_numpy(sample.routes).long().transpose(0, 1)
    return ForcedRoutes(chosen, (torch.arange(len(sample)) < len(sample) - 1)[:, None])


def logits_of(model: torch.nn.Module, sample: TrainSample) -> Tensor:
    """(L, V) of the sequence alone, under its routes if it has any."""
    with hooked(find_routers(model), forced_on(sample)):
        return model(input_ids=torch.from_numpy(sample.token_ids).long()[None], use_cache=False).logits[0]


def by_hand(
    model: torch.nn.Module,
    batch: Sequence[TrainSample],
    loss: dict,
    old: Sequence[np.ndarray] | None = None,
    corrected: bool = False,
) -> Hand:
    trained = [np.flatnonzero(sample.loss_mask).tolist() for sample in batch]
    total, clipped, found = torch.zeros(()), 0, []
    for i, (sample, places) in enumerate(zip(batch, trained, strict=True)):
        logprobs_LV = (logits_of(model, sample) / TEMPERATURE).log_softmax(-1)
        current = [logprobs_LV[place - 1, int(sample.token_ids[place])] for place in places]
        found.append(np.array([value.item() for value in current]))
        before = found[i] if old is None else old[i]
        log_ratios = [value - float(b) for value, b in zip(current, before, strict=True)]
        for t, place in enumerate(places):
            ratio = torch.exp(sum(log_ratios) / len(places) if loss["type"] == "gspo" else log_ratios[t])
            advantage = float(np.broadcast_to(sample.advantage, len(sample))[place])
            if loss["type"] == "cispo":
                clipped += ratio.item() > loss["clip_high"]
                value = -min(ratio.item(), loss["clip_high"]) * advantage * current[t]
            else:
                low, high = 1 - loss["clip_low"], 1 + loss["clip_high"]
                value = -torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
                clipped += (ratio < low and advantage < 0) or (ratio > high and advantage > 0)
            weight = {
                "grpo": 1 / (len(batch) * len(places)),
                "gspo": 1 / (len(batch) * len(places)),
                "dapo": 1 / sum(map(len, trained)),
                "cispo": 1 / sum(map(len, trained)),
                "dr_grpo": 1 / (len(batch) * MAX_NEW_TOKENS),
            }[loss["type"]]
            if corrected:
                weight *= min(math.exp(float(before[t]) - float(sample.logprobs[place])), CAP)
            total = total + weight * value
    return Hand(total, clipped / sum(map(len, trained)), found)


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def learned(
    learner: PolicyLearner, batch: Sequence[TrainSample], old: Sequence[np.ndarray] | None
) -> tuple[dict[str, float], list]:
    """Metrics and micro-batches of the batch as one mini-batch; the gradient is left in the model."""
    routing = learner.routing.of_update(batch, np.arange(len(batch)), learner.device, has_old_pass=True)
    (minibatch,) = learner.cut(batch, epoch=0)
    tally, micros = Tally(), []
    for rows in minibatch:
        micros.append(learner.packing.collate(rows, batch))
        with routed(routing, "train", micros[-1]):
            learner.backward(micros[-1], batch, learner.weights(minibatch, batch), old, None, tally)
    tally.add_step(0.0, finite=True)
    return tally.means(), micros


def assert_same_gradient(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    scale = max(float(grad.norm()) for grad in expected.values())
    assert scale > 1e-3
    for name, grad in expected.items():
        assert float((found[name] - grad).norm()) <= 1e-5 * scale, name


@pytest.mark.parametrize(
    ("turns", "corrected", "packing"),
    [(3, False, True), (3, True, True), (3, True, False), (1, True, True)],
    ids=["three turns", "three turns, tis", "three turns, tis, padded", "one turn, tis"],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_are_those_of_the_trained_tokens_one_by_one(
    loss: str, turns: int, corrected: bool, packing: bool, make_model, make_learner
) -> None:
    batch = three_turns() if turns == 3 else build_batch()
    correction = {"type": "tis", "cap": CAP} if corrected else {"type": "none"}
    learner = make_learner(make_model("qwen3_moe"), loss=LOSSES[loss], correction=correction, packing=packing)
    reference = make_model("qwen3_moe")
    rng = np.random.default_rng(1)
    current = by_hand(reference, batch, LOSSES[loss]).logprobs
    old = [(values + rng.normal(0, 0.2, values.shape)).astype(np.float32) for values in current]
    batch = [near(sample, values) for sample, values in zip(batch, old, strict=True)]

    expected = by_hand(reference, batch, LOSSES[loss], old, corrected)
    expected.loss.backward()
    found, micros = learned(learner, batch, old)

    assert len(micros) > 1
    assert any(micro.packed is not None for micro in micros) == packing
    assert found["loss"] == pytest.approx(expected.loss.item(), rel=2e-5, abs=1e-6)
    assert found["clip_fraction"] == pytest.approx(expected.clipped)
    assert 0 < expected.clipped < 1
    assert_same_gradient(gradients(learner.model), gradients(reference))


def near(sample: TrainSample, old: np.ndarray) -> TrainSample:
    """With an engine a little off ``old`` on trained tokens, and nonsense on the others: nobody reads it."""
    logprobs = np.full(len(sample), np.nan, np.float32)
    logprobs[sample.loss_mask] = old + 0.1 * np.sin(np.arange(len(old)))
    return replace(sample, logprobs=logprobs)


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("loss", ["dapo", "gspo"])
def test_replayed_routes_of_every_fed_token_are_forced_in_all_turns(
    loss: str, packing: bool, make_model, make_learner
) -> None:
    batch = three_turns(routes=True)
    learner = make_learner(make_model("qwen3_moe"), loss=LOSSES[loss], routing_replay="r3", packing=packing)
    reference = make_model("qwen3_moe")
    native = by_hand(reference, [replace(sample, routes=None) for sample in batch], LOSSES[loss]).logprobs
    expected = by_hand(reference, batch, LOSSES[loss], native)
    moved = np.abs(np.concatenate(native) - np.concatenate(expected.logprobs))
    assert moved.max() > 0.1, "the routes are not the router's own"
    expected.loss.backward()
    found, micros = learned(learner, batch, native)
    assert any(micro.packed is not None for micro in micros) == packing
    assert found["loss"] == pytest.approx(expected.loss.item(), rel=1e-4)
    assert_same_gradient(gradients(learner.model), gradients(reference))


@pytest.mark.parametrize("settings", [{}, {"minibatches": 2}], ids=["one step", "two steps"])
def test_an_update_counts_and_measures_trained_tokens_only(settings: dict, make_model, make_learner) -> None:
    batch = three_turns(routes=True)
    model = make_model("qwen3_moe")
    learner = make_learner(model, routing_replay="r3", **settings)
    before = by_hand(make_model("qwen3_moe"), batch, LOSSES["dapo"]).logprobs
    load_LE, same = np.zeros((LAYERS, EXPERTS)), []
    for sample in batch:
        recorder = Recorder(find_routers(model))
        with torch.no_grad(), hooked(find_routers(model), forced_on(sample), recorder):
            model(input_ids=torch.from_numpy(sample.token_ids).long()[None], use_cache=False)
        for place in np.flatnonzero(sample.loss_mask) - 1:
            for layer in range(LAYERS):
                chosen = recorder.routes()[layer, place]
                load_LE[layer] += np.bincount(chosen, minlength=EXPERTS)
                same.append(len({*chosen.tolist()} & {*sample.routes[place, layer].tolist()}) / TOP_K)

    result = learner.update(batch)

    for old, expected in zip(result.old_logprobs, before, strict=True):
        assert old == pytest.approx(expected, abs=1e-5)
    metrics = result.metrics
    assert metrics["tokens"] == sum(sample.loss_mask.sum() for sample in batch)
    d = np.concatenate(before) - np.concatenate([s.logprobs[s.loss_mask] for s in batch])
    assert metrics["mismatch_kl"] == pytest.approx(float(np.mean(np.expm1(d) - d)), rel=1e-4)
    assert metrics["mismatch_max"] == pytest.approx(float(np.abs(d).max()), rel=1e-4)
    after = by_hand(learner.model, batch, LOSSES["dapo"]).logprobs
    d = np.concatenate(after) - np.concatenate(before)
    assert metrics["policy_kl"] == pytest.approx(float(np.mean(np.expm1(d) - d)), rel=1e-3)
    assert metrics["routing/replayed"] == 1.0
    assert metrics["routing/agreement_engine"] == pytest.approx(np.mean(same))
    assert result.layers["load_max"] == pytest.approx((load_LE.max(1) / load_LE.mean(1)).tolist())


def test_what_stands_between_turns_is_read_but_not_trained_on(make_model, make_learner) -> None:
    """Another tool output changes what follows it; its own tokens have no log-probability to learn."""
    batch = three_turns()
    learner = make_learner(make_model("llama"))
    first = learner.update(batch).old_logprobs
    place = int(np.flatnonzero(~batch[0].loss_mask & (np.arange(len(batch[0])) > batch[0].start))[0])
    tokens = batch[0].token_ids.copy()
    tokens[place] = tokens[place] % (VOCABULARY - 2) + 1
    other = [replace(batch[0], token_ids=tokens), *batch[1:]]
    second = make_learner(make_model("llama")).update(other).old_logprobs
    before = int(batch[0].loss_mask[:place].sum())
    assert first[0][:before] == pytest.approx(second[0][:before], abs=1e-5)
    assert np.abs(first[0][before:] - second[0][before:]).max() > 1e-3
