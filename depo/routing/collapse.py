"""The alarm for a collapsing router: fewer and fewer experts do all of the work.

The rule, by layer: the number of experts in use (exp of the load's entropy) has lost more than half of what
it had above its minimum K (every token to the same K experts), against its mean over the first ``REFERENCE``
steps, for ``PATIENCE`` steps in a row. Against the run's own beginning, because balance differs by model and
layer and because a small batch does not reach every expert. A layer that had collapsed before training has
nothing to lose and raises no alarm; ``routing/experts_in_use`` shows it.

L routed layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

REFERENCE = 5
PATIENCE = 3
LOST = 0.5
MARGIN = 0.5  # experts in use above K below which there is nothing to lose


class CollapseAlarm:
    """Fed once a step; its state is JSON and belongs into the checkpoint."""

    def __init__(self, layers: int, top_k: int) -> None:
        self.top_k = top_k
        self.sum_L = np.zeros(layers)
        self.steps = 0
        self.below_L = np.zeros(layers, dtype=int)

    def check(self, in_use_L: Sequence[float] | np.ndarray) -> list[int]:
        """Which routed layers (by position) are collapsing after this step."""
        if self.steps < REFERENCE:
            self.sum_L += in_use_L
            self.steps += 1
            return []
        had_L = self.sum_L / REFERENCE - self.top_k
        left_L = np.asarray(in_use_L) - self.top_k
        below_L = (had_L > MARGIN) & (left_L < (1 - LOST) * had_L)
        self.below_L = np.where(below_L, self.below_L + 1, 0)
        return [int(layer) for layer in np.flatnonzero(self.below_L >= PATIENCE)]

    def state(self) -> dict[str, object]:
        return {"sum": self.sum_L.tolist(), "steps": self.steps, "below": self.below_L.tolist()}

    def restore(self, state: dict) -> None:
        self.sum_L = np.array(state["sum"], dtype=float)
        self.steps = state["steps"]
        self.below_L = np.array(state["below"], dtype=int)
