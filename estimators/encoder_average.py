"""Predicting with a running average of the weights: what the last few noisy steps did matters less.

Exponential average over updates (Polyak & Juditsky 1992, in the form of Tarvainen & Valpola 2017), with a
short memory at first, so that the untrained weights are soon forgotten. Training goes on from the weights
themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """Averages of ``weights``, by name. ``decay`` 0: the average is the weights."""

    def __init__(self, weights: Mapping[str, nn.Parameter], decay: float) -> None:
        self.weights = dict(weights) if decay else {}
        self.decay = decay
        self.averages = {name: weight.detach().clone() for name, weight in self.weights.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """After optimizer step number ``updates``, from 1."""
        share = 1 - min(self.decay, (1 + updates) / (10 + updates))
        for name, weight in self.weights.items():
            self.averages[name].lerp_(weight.detach(), share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the averaged weights inside, and its own again after."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, weight in self.weights.items():
            weight.data, self.averages[name] = self.averages[name], weight.data
