"""The noise that shows an engine which ignores its weight updates."""

from __future__ import annotations

import torch
from torch import nn

from depo.learner.optimizer import RELATIVE, perturb, restore


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
