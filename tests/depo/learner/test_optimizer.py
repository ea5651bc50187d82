"""The learning rate's course, and the noise that shows an engine which ignores its weight updates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from depo.learner.optimizer import RELATIVE, lr_factor, perturb, restore


def test_warm_up_rises_linearly_and_no_update_is_wasted_at_zero() -> None:
    assert [lr_factor("constant", step, 3, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_linear_and_cosine_fall_from_one_towards_zero_at_the_end() -> None:
    assert [lr_factor("linear", step, 2, 6) for step in range(2, 7)] == [1, 0.75, 0.5, 0.25, 0]
    cosine = [lr_factor("cosine", step, 2, 6) for step in range(2, 7)]
    assert cosine == pytest.approx([1, 0.8535534, 0.5, 0.1464466, 0])


def test_a_run_extended_past_its_end_stays_at_zero() -> None:
    assert lr_factor("linear", 20, 0, 10) == 0
    assert lr_factor("cosine", 20, 0, 10) == pytest.approx(0)


def test_scale_multiplies_the_same_noise_and_restoring_takes_it_back() -> None:
    start = torch.linspace(-3, 3, 4000).reshape(40, 100)
    moved = {}
    for scale in (1.0, 4.0):
        weights = {"layer.weight": nn.Parameter(start.clone())}
        saved = perturb(weights, 7, scale)
        moved[scale] = weights["layer.weight"].detach() - start
        restore(weights, saved)
        assert torch.equal(weights["layer.weight"], start)
    torch.testing.assert_close(moved[4.0], 4 * moved[1.0], atol=1e-5, rtol=1e-4)
    spread = RELATIVE * start.pow(2).mean().sqrt()
    torch.testing.assert_close(moved[1.0].std(), spread, rtol=0.05, atol=0)
