"""Group-relative advantages: how much better a rollout did than its siblings. G rollouts of one group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from depo.types import Group

STD_OFFSET = 1e-4  # added to the standard deviation, as TRL's GRPOTrainer does


def group_advantages(values_G: np.ndarray, scale: Literal["group", "none"]) -> np.ndarray:
    """Advantages (G,) float32 of one group's reward values (G,); NaN marks an unscorable rollout.

    ``scale`` "group": (r − mean) / (std + 1e-4), std with G − 1 in the denominator (GRPO, arXiv 2402.03300,
    §4.1.2); "none": r − mean (Dr. GRPO, arXiv 2503.20783). Unscorable rollouts get 0 and are left out of
    mean and std; with fewer than two scorable ones nothing can be compared and all are 0.
    """
    values_G = np.asarray(values_G, dtype=np.float64)
    scorable_G = ~np.isnan(values_G)
    advantages_G = np.zeros(values_G.shape, dtype=np.float32)
    if scorable_G.sum() < 2:
        return advantages_G
    scored = values_G[scorable_G]
    centred = scored - scored.mean()
    if scale == "group":
        centred = centred / (scored.std(ddof=1) + STD_OFFSET)
    advantages_G[scorable_G] = centred
    return advantages_G


def advantages_into(trained: Sequence[Group], scale: str) -> None:
    """Fill ``advantages`` of the groups that are trained on; an unscorable rollout gets 0."""
    for group in trained:
        values_G = np.array([score.value if score.correct is not None else np.nan for score in group.scores])
        group.advantages = group_advantages(values_G, scale)
