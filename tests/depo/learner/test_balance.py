"""The load-balancing loss against transformers' own, and that nobody gets it who did not ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from depo.errors import UserError
from depo.learner.learner import PolicyLearner
from depo.learner.routing import LoadBalancing
from depo.types import TrainSample

MakeModel = Callable[[str], PreTrainedModel]
MakeLearner = Callable[..., PolicyLearner]
MakeBatch = Callable[..., list[TrainSample]]


def gradients(learner: PolicyLearner, batch: list[TrainSample]) -> dict[str, torch.Tensor]:
    """Of one mini-batch, clipped by nothing: taken just before the optimizer would use them."""
    taken: dict[str, torch.Tensor] = {}
    step = learner.optimizer.step

    def keep() -> None:
        taken.update({n: p.grad.clone() for n, p in learner.parameters.items() if p.grad is not None})
        step()

    learner.optimizer.step = keep  # type: ignore[method-assign]
    learner.update(batch)
    return taken


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_is_that_of_transformers_own_loss_on_real_tokens(
    checkpointing: bool, make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    batch = make_batch()
    settings = {"tokens_per_microbatch": 100_000, "max_grad_norm": 1e9}
    plain = gradients(make_learner(make_model("qwen3_moe"), **settings), batch)
    model = make_model("qwen3_moe")
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    balanced = gradients(make_learner(model, **settings, load_balancing_coef=0.7), batch)

    reference = make_model("qwen3_moe")
    rows = [torch.from_numpy(sample.token_ids).long() for sample in batch]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(r)) for r in rows], batch_first=True)
    # float attention masks of ones and zeros at the right end: causal attention never looks there
    output = reference(input_ids=tokens, attention_mask=mask.long(), output_router_logits=True)
    (0.7 * output.aux_loss).backward()
    for name, parameter in reference.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(balanced[name] - plain[name], expected, atol=1e-5), name
    assert any(".gate." in n and p.grad.abs().max() > 1e-3 for n, p in reference.named_parameters())


def test_without_a_coefficient_there_is_none_whatever_the_config_says(
    make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    results = []
    for coefficient in (0.0, 5.0):
        model = make_model("qwen3_moe")
        model.config.output_router_logits = True
        model.config.router_aux_loss_coef = model.router_aux_loss_coef = coefficient
        results.append(gradients(make_learner(model), make_batch()))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_micro_batches_of_equal_sequences_count_alike(
    make_model: MakeModel, make_learner: MakeLearner, make_batch: MakeBatch
) -> None:
    """Twelve copies of one sequence: every micro-batch has the same loss, so cutting must not change it."""
    batch = make_batch()
    same = [replace(batch[0], advantage=s.advantage, group=s.group) for s in batch]
    losses = []
    for tokens in (30, 100_000):
        learner = make_learner(make_model("qwen3_moe"), tokens_per_microbatch=tokens, load_balancing_coef=0.5)
        losses.append(learner.update(same).metrics["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_dense_model_has_no_load_to_balance(make_model: MakeModel) -> None:
    with pytest.raises(UserError, match=r"learner\.load_balancing_coef: 0\.001, but .* llama models"):
        LoadBalancing(make_model("llama"), 0.001)
