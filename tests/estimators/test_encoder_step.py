"""One optimizer step of the encoder: micro-batches, dropout, and the groups it is taken on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_encoder import CONTEXT, estimator, groups, means, observed, prompts

from depo.estimators.encoder_training import (
    PASSES,
    gathered,
    loss_of,
)


def test_without_dropout_pairs_make_a_step_independent_of_the_micro_batch(tiny_bert):
    texts, _ = prompts(10, seed=9)
    results = []
    for size in (40, 8):
        subject = estimator(tiny_bert, "repaired", micro_batch=size, replay=0)
        losses = [subject.observe(groups(30, seed=i), CONTEXT)["loss"] for i in range(3)]
        results.append((losses, means(subject, *texts)))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-4)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-4)


@pytest.mark.parametrize("dropout", ["off", "on", "ranking_off"])
def test_a_step_in_micro_batches_has_the_gradient_of_the_whole_loss(tiny_bert, dropout):
    """Against the plain way, all graphs held at once; with dropout, both passes must see the same noise."""
    trainer = estimator(tiny_bert, "repaired", micro_batch=8, dropout=dropout).head.trainer
    new = sorted(gathered(groups(30)), key=lambda group: (len(group.text), group.key))
    parts = [new[start : start + 8] for start in range(0, 30, 8)]
    for number, each in enumerate(PASSES[dropout]):
        outputs = [trainer._outputs(part, each, (number, i)) for i, part in enumerate(parts)]
        loss_of(torch.cat(outputs), new, each, trainer.options).backward()
    weights = list(trainer.encoder.network.parameters())
    expected = [None if weight.grad is None else weight.grad.clone() for weight in weights]
    trainer.step(new)
    for weight, gradient in zip(weights, expected, strict=True):
        if gradient is not None:
            torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=1e-6)
    assert sum(gradient is not None for gradient in expected) > len(weights) / 2


def test_dropout_for_ranking_can_be_off_while_it_is_on_for_the_rates(tiny_bert, monkeypatch):
    """Which passes of the network's forward were in training mode, and with which loss."""
    for dropout, expected in (("on", [True]), ("off", [False]), ("ranking_off", [True, False])):
        trainer = estimator(tiny_bert, dropout=dropout).head.trainer
        modes = []
        judge = trainer.encoder.network.judge
        monkeypatch.setattr(
            trainer.encoder.network,
            "judge",
            lambda *x, judge=judge, trainer=trainer, modes=modes: (
                modes.append(trainer.encoder.network.training) or judge(*x)
            ),
        )
        trainer.step(gathered(groups(10)))
        assert modes == expected
    assert [(each.rates, each.ranking) for each in PASSES["ranking_off"]] == [(True, False), (False, True)]


def test_groups_of_one_prompt_are_one_and_unknown_logprobs_are_left_out():
    both = gathered([observed("a", 2, 4, -1.0), observed("a", 3, 4, math.nan), observed("a", 0, 12, -0.2)])
    assert [(each.successes, each.trials) for each in both] == [(5, 20)]
    assert both[0].mean_logprob == pytest.approx((-1.0 * 4 - 0.2 * 12) / 16)
    assert gathered([observed("unscorable", 0, 0)]) == []
