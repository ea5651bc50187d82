"""The update as a whole. Loss values are tested in test_loss.py, parity with TRL in test_trl_parity.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_samples import sequences_of, with_engine
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from depo.learner.learner import PolicyLearner
from depo.learner.loss import Tally
from depo.types import TrainSample

MakeModel = Callable[[str], PreTrainedModel]
MakeLearner = Callable[..., PolicyLearner]
MakeBatch = Callable[..., list[TrainSample]]
LOSSES = ["grpo", "dapo", "dr_grpo", "gspo", "cispo"]


def with_lora(model: PreTrainedModel, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(3)
    targets = ["q_proj", "v_proj"]
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules=targets))


def weights_of(learner: PolicyLearner) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in learner.model.named_parameters()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def gradient(
    learner: PolicyLearner, batch: list[TrainSample], old: list[np.ndarray]
) -> tuple[int, dict[str, Tensor]]:
    (minibatch,) = learner.cut(batch, epoch=0)
    weights = learner.weights(minibatch, batch)
    for rows in minibatch:
        micro = learner.packing.collate(rows, batch)
        learner.backward(micro, batch, weights, old, None, Tally())
    return len(minibatch), {name: p.grad for name, p in learner.parameters.items()}


def current(learner: PolicyLearner, batch: list[TrainSample]) -> list[np.ndarray]:
    return learner.score(sequences_of(batch), learner.temperature)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_does_not_depend_on_how_the_minibatch_is_cut(
    loss: str, make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    batch = make_batch()
    results = {}
    for budget in (10_000, 40, 1):
        learner = make_learner(make_model("qwen3_moe"), loss={"type": loss}, tokens_per_microbatch=budget)
        old = [values + 0.05 for values in current(learner, batch)]
        results[budget] = gradient(learner, batch, old)
    assert results[10_000][0] < results[40][0] < results[1][0] == len(batch)
    scale = max(float(grad.norm()) for grad in results[1][1].values())
    assert scale > 0
    for budget in (40, 1):
        for name, grad in results[10_000][1].items():
            assert float((grad - results[budget][1][name]).norm()) <= 2e-6 * scale, name


@pytest.mark.parametrize(
    ("loss", "factor"),
    [("grpo", "rows"), ("gspo", "rows"), ("dr_grpo", "rows"), ("dapo", "tokens"), ("cispo", "tokens")],
)
def test_included_zero_variance_rows_change_the_denominator_and_nothing_else(
    loss: str, factor: str, make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    whole = make_batch()
    whole = [replace(sample, advantage=0.0) if sample.group == 1 else sample for sample in whole]
    part = [sample for sample in whole if sample.group != 1]
    grads = {}
    for name, batch in (("whole", whole), ("part", part)):
        learner = make_learner(make_model("llama"), loss={"type": loss})
        grads[name] = gradient(learner, batch, current(learner, batch))[1]
    tokens = {
        name: sum(sample.trained for sample in batch) for name, batch in (("whole", whole), ("part", part))
    }
    ratio = len(part) / len(whole) if factor == "rows" else tokens["part"] / tokens["whole"]
    assert ratio < 0.9
    for name, grad in grads["whole"].items():
        assert torch.allclose(grad, ratio * grads["part"][name], atol=1e-6), name


def test_update_makes_rewarded_completions_likelier(
    make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    learner = make_learner(make_model("qwen3_moe"), lr=2e-3)
    batch = make_batch()
    before = current(learner, batch)
    batch = with_engine(batch, before)
    metrics = learner.update(batch).metrics
    after = current(learner, batch)
    gain = np.array([new.sum() - old.sum() for new, old in zip(after, before, strict=True)])
    assert np.corrcoef(gain, [sample.advantage for sample in batch])[0, 1] > 0.5
    assert metrics["mismatch_kl"] == pytest.approx(0, abs=1e-9)
    assert metrics["correction_mean"] == pytest.approx(1, abs=1e-5)
    # 12 rows are fewer than the 32 it looks at, so it is exactly the k3 of the whole batch
    difference = np.concatenate(after).astype(float) - np.concatenate(before)
    assert metrics["policy_kl"] == pytest.approx(
        float(np.mean(np.exp(difference) - 1 - difference)), rel=1e-3
    )
    assert metrics["policy_kl"] > 1e-5


def test_old_logprobs_are_those_before_the_first_optimizer_step(
    make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    batch = make_batch()
    for settings in ({}, {"epochs": 2}, {"minibatches": 3}):
        learner = make_learner(make_model("qwen3_moe"), **settings)
        before = current(learner, batch)
        result = learner.update(batch)
        assert result.metrics["optimizer_steps"] == math.prod(settings.values())
        for old, expected in zip(result.old_logprobs, before, strict=True):
            assert old == pytest.approx(expected, abs=1e-5)
        assert max(np.abs(a - b).max() for a, b in zip(current(learner, batch), before, strict=True)) > 1e-3


def test_one_pass_and_recomputed_old_logprobs_give_the_same_update(
    make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shortcut of a single optimizer step, with a correction that needs the old log-probabilities."""
    settings = {"correction": {"type": "icepop", "low": 0.8, "high": 1.2}}
    batch = make_batch()
    shortcut, reference = (make_learner(make_model("llama"), **settings) for _ in range(2))
    now = current(shortcut, batch)
    batch = with_engine(batch, [v + 0.3 * np.cos(np.arange(len(v))).astype(np.float32) for v in now])
    reference.has_dropout = True  # forces the separate pass; there is none to draw
    left, right = shortcut.update(batch), reference.update(batch)
    assert 0.1 < left.metrics["correction_cut"] < 0.9
    assert left.metrics["loss"] == pytest.approx(right.metrics["loss"], rel=1e-5)
    assert left.metrics["grad_norm"] == pytest.approx(right.metrics["grad_norm"], rel=1e-5)


def test_mismatch_metrics_of_known_differences(
    make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    learner = make_learner(make_model("llama"), correction={"type": "mis", "cap": 1.2})
    batch = make_batch()
    # learner − engine is +0.5 on the first row, 0 elsewhere
    first, *others = current(learner, batch)
    batch = with_engine(batch, [first - 0.5, *others])
    metrics = learner.update(batch).metrics
    share = batch[0].trained / sum(sample.trained for sample in batch)
    assert metrics["mismatch_max"] == pytest.approx(0.5, abs=1e-5)
    assert metrics["mismatch_kl"] == pytest.approx(share * (math.exp(0.5) - 1.5), rel=1e-4)
    assert metrics["correction_cut"] == pytest.approx(share)
    assert metrics["correction_mean"] == pytest.approx(1 - share, rel=1e-5)


def test_a_gradient_that_is_not_finite_skips_the_step_and_keeps_the_weights(
    make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    model = make_model("llama")
    learner = make_learner(model, minibatches=3)
    before = weights_of(learner)
    batch = make_batch()
    hook = model.lm_head.weight.register_hook(lambda grad: grad * float("nan"))
    metrics = learner.update(batch).metrics
    assert metrics["skipped_steps"] == 3
    assert metrics["optimizer_steps"] == 0
    assert same(before, weights_of(learner))
    hook.remove()
    assert learner.update(batch).metrics["optimizer_steps"] == 3
    assert all(torch.isfinite(w).all() for w in weights_of(learner).values())
    assert not same(before, weights_of(learner))


def test_a_forward_pass_that_is_not_finite_leaves_nothing_behind_either(
    make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    model = make_model("llama")
    learner = make_learner(model)
    before = weights_of(learner)
    hook = model.lm_head.register_forward_hook(lambda module, given, logits: logits * float("nan"))
    result = learner.update(make_batch())
    hook.remove()
    assert result.metrics["skipped_steps"] == 1
    assert math.isnan(result.metrics["policy_kl"])
    assert result.policy_kl == 0, "the run adds this up, and its checkpoints hold no NaN"
    assert same(before, weights_of(learner))
    after = learner.update(make_batch())
    assert after.policy_kl == after.metrics["policy_kl"] > 0


def test_an_empty_batch_trains_nothing_but_the_schedule_advances(
    make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    learner = make_learner(make_model("llama"), lr=1.0, schedule="linear")
    before = weights_of(learner)
    result = learner.update([])
    assert result.metrics["sequences"] == 0
    assert result.metrics["optimizer_steps"] == 0
    assert list(result.old_logprobs) == []
    assert same(before, weights_of(learner))
    assert learner.update(make_batch()).metrics["lr"] == pytest.approx(0.9)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_reference_policy_is_the_initial_one(
    lora: bool, make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    model = make_model("qwen3_moe")
    learner = make_learner(with_lora(model) if lora else model, kl_coef=0.1, lr=5e-2)
    initial = make_learner(make_model("qwen3_moe"))
    batch = make_batch()
    first = learner.update(batch).metrics
    assert first["kl_ref"] == pytest.approx(0, abs=1e-7)  # it still is the reference
    now, then = current(learner, batch), current(initial, batch)
    difference = np.concatenate(then).astype(float) - np.concatenate(now)
    expected = float(np.mean(np.exp(difference) - 1 - difference))
    assert expected > 1e-3
    assert learner.update(batch).metrics["kl_ref"] == pytest.approx(expected, rel=1e-3)
    assert all(p.requires_grad for p in learner.parameters.values())


def test_lora_trains_the_adapter_and_nothing_else(
    make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    learner = make_learner(with_lora(make_model("qwen3_moe")))
    before = weights_of(learner)
    learner.update(make_batch())
    changed = {name for name, weight in weights_of(learner).items() if not torch.equal(weight, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)


@pytest.mark.parametrize("kind", ["full", "lora", "lora dropout"])
def test_a_resumed_learner_gives_the_same_numbers_bit_by_bit(
    kind: str, tmp_path: Path, make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    def fresh() -> PolicyLearner:
        model = make_model("qwen3_moe")
        adapted = model if kind == "full" else with_lora(model, dropout=0.3 if "dropout" in kind else 0.0)
        settings = {"epochs": 2, "minibatches": 2, "schedule": "cosine", "warmup_steps": 2, "kl_coef": 0.05}
        return make_learner(adapted, **settings, weight_decay=0.1)

    batches = [make_batch(seed) for seed in range(3)]
    straight = fresh()
    expected = [straight.update(batch).metrics for batch in batches]
    stopped = fresh()
    for batch in batches[:2]:
        stopped.update(batch)
    stopped.save(tmp_path)
    torch.rand(7)  # whatever else happens in between
    resumed = fresh()
    resumed.load(tmp_path)
    found = resumed.update(batches[2]).metrics
    assert same(weights_of(straight), weights_of(resumed))
    del expected[2]["seconds"], found["seconds"]
    assert found == expected[2]
    assert not list(tmp_path.glob("*.p*"))


def test_loading_a_checkpoint_of_another_policy_is_refused(
    tmp_path: Path, make_model: MakeModel, make_learner: MakeLearner
) -> None:
    make_learner(make_model("llama")).save(tmp_path)
    other = make_learner(make_model("qwen3_moe"))
    before = weights_of(other)
    with pytest.raises(ValueError, match=r"does not fit this policy: model\.layers\.0\.mlp.down_proj.weight"):
        other.load(tmp_path)
    assert same(before, weights_of(other))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_perturbing_is_visible_repeatable_and_undone_exactly(
    lora: bool, make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    learner = make_learner(with_lora(make_model("qwen3_moe")) if lora else make_model("qwen3_moe"))
    batch = make_batch()
    before, weights = np.concatenate(current(learner, batch)), weights_of(learner)
    learner.perturb(5)
    moved = np.concatenate(current(learner, batch))
    assert np.abs(moved - before).mean() > 0.05
    with pytest.raises(RuntimeError, match="perturbed already"):
        learner.perturb(5)
    learner.restore()
    assert same(weights, weights_of(learner))
    learner.perturb(5)
    assert np.array_equal(np.concatenate(current(learner, batch)), moved)
    learner.restore()
    learner.perturb(6)
    assert not np.array_equal(np.concatenate(current(learner, batch)), moved)


def test_training_mode_computes_what_evaluation_mode_does(
    make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    model = make_model("llama")
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    make_learner(model)
    tokens = torch.arange(2, 20).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(model.train()(tokens).logits, model.eval()(tokens).logits)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"loss_mask": np.zeros(8, bool)}, "row 2 of the batch has no token to train on"),
        ({"loss_mask": np.ones(8, bool)}, "row 2 of the batch trains on its first token"),
        ({"loss_mask": np.ones(8)}, "row 2 of the batch has a loss_mask of type float64"),
        ({"loss_mask": np.ones(7, bool)}, r"row 2 of the batch has 8 tokens, but loss_mask of shape \(7,\)"),
        ({"logprobs": np.zeros(9, np.float32)}, r"8 tokens, but logprobs of shape \(9,\)"),
        ({"advantage": np.zeros(3, np.float32)}, r"8 tokens, but advantage of shape \(3,\)"),
        ({"advantage": np.nan}, "row 2 has an engine log-probability or advantage"),
        ({"advantage": np.full(8, np.nan)}, "row 2 has an engine log-probability or advantage"),
        ({"logprobs": np.full(8, -np.inf, np.float32)}, "row 2 has an engine log-probability or advantage"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_named(
    spoil: dict[str, object],
    message: str,
    make_model: MakeModel,
    make_learner: MakeLearner,
    make_batch: MakeBatch,
) -> None:
    batch = make_batch()
    batch[2] = replace(TrainSample.of_completion([3, 4, 5], [6, 7, 8, 9, 1]), **spoil)
    learner = make_learner(make_model("llama"))
    with pytest.raises(ValueError, match=message):
        learner.update(batch)


def test_scoring_nothing_gives_nothing(make_model: MakeModel, make_learner: MakeLearner) -> None:
    assert make_learner(make_model("llama")).score([]) == []


def test_read_only_arrays_are_accepted(
    make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch, recwarn: pytest.WarningsRecorder
) -> None:
    """As they come out of Ray's object store."""
    batch = make_batch()
    for sample in batch:
        for array in (sample.token_ids, sample.loss_mask, sample.logprobs):
            array.flags.writeable = False
    make_learner(make_model("llama"), epochs=2).update(batch)
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]
