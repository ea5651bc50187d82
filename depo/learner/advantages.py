"""Advantages: how much better a rollout did than its siblings. P groups of G rollouts.

A package adds a way of its own as an entry point of the group ``depo.advantages``: a function of the reward
values of all groups, see ``Advantages``. ``learner.advantage_scale`` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import cast

import numpy as np

from depo import plugins
from depo.types import Group

Advantages = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]
"""Reward values of P groups, arrays (G,) float64 with NaN for unscorable rollouts → advantages, arrays (G,).
An unscorable rollout gets 0, whatever stands there."""

STD_OFFSET = 1e-4  # added to the standard deviation, as TRL's GRPOTrainer does

GROUP = "depo.advantages"
BUILT_IN = {"group": "depo.learner.advantages:scaled", "none": "depo.learner.advantages:centred"}


def scaled(values_PG: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(r − mean) / (std + 1e-4) by group, std with G − 1 in the denominator (GRPO, arXiv 2402.03300,
    §4.1.2)."""
    return [group_advantages(values_G, scale=True) for values_G in values_PG]


def centred(values_PG: Sequence[np.ndarray]) -> list[np.ndarray]:
    """r − mean by group (Dr. GRPO, arXiv 2503.20783)."""
    return [group_advantages(values_G, scale=False) for values_G in values_PG]


def group_advantages(values_G: np.ndarray, scale: bool) -> np.ndarray:
    """Unscorable rollouts are left out of mean and std; with fewer than two scorable ones nothing can be
    compared and all are 0."""
    values_G = np.asarray(values_G, dtype=np.float64)
    scorable_G = ~np.isnan(values_G)
    advantages_G = np.zeros(values_G.shape, dtype=np.float32)
    if scorable_G.sum() < 2:
        return advantages_G
    scored = values_G[scorable_G]
    deviations = scored - scored.mean()
    advantages_G[scorable_G] = deviations / (scored.std(ddof=1) + STD_OFFSET) if scale else deviations
    return advantages_G


@cache
def load_advantages(name: str) -> Advantages:
    """Raises ValueError for a name that is not registered."""
    return cast(Advantages, plugins.load(GROUP, BUILT_IN, name))


def advantages_into(trained: Sequence[Group], name: str) -> None:
    """Fill ``advantages`` (G,) float32 of the groups that are trained on, by the function registered as
    ``name``. Raises ValueError for advantages that do not fit the rollouts."""
    values_PG = [
        np.array([score.value if score.correct is not None else np.nan for score in group.scores])
        for group in trained
    ]
    found_PG = load_advantages(name)(values_PG)
    for group, values_G, found_G in zip(trained, values_PG, found_PG, strict=True):
        advantages_G = np.where(np.isnan(values_G), 0.0, found_G).astype(np.float32)
        if advantages_G.shape != values_G.shape:
            raise ValueError(
                f"advantages {name!r} gave {advantages_G.shape} values for {len(values_G)} rollouts"
            )
        group.advantages = advantages_G
