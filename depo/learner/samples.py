"""From groups to the learner's samples: advantages (how much better a rollout did than its siblings),
samples, and the learner's log-probabilities back into the groups. P groups of G rollouts.

A package adds advantages of its own as an entry point of the group ``depo.advantages``: a function of the
reward values of all groups, see ``Advantages``. ``learner.advantage_scale`` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import cast

import numpy as np

from depo import plugins
from depo.types import Group, Outcome, TrainSample

Advantages = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]
"""Reward values of P groups, arrays (G,) float64 with NaN for unscorable rollouts → advantages, arrays (G,).
An unscorable rollout gets 0, whatever stands there."""

STD_OFFSET = 1e-4  # added to the standard deviation, as TRL's GRPOTrainer does

GROUP = "depo.advantages"
BUILT_IN = {"group": "depo.learner.samples:scaled", "none": "depo.learner.samples:centred"}


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


def train_samples(groups: Sequence[Group]) -> list[TrainSample]:
    """The learner's samples, in request order. Groups without advantages (zero variance) enter with 0;
    surplus groups, and rollouts without a verdict, do not enter."""
    return [
        TrainSample.of_completion(
            group.pick.prompt.token_ids,
            rollout.token_ids,
            rollout.logprobs,
            advantage=0.0 if group.advantages is None else float(group.advantages[i]),
            group=g,
            index=i,
            key=rollout.key,
            policy_version=rollout.policy_version,
            routes=rollout.routes,
        )
        for g, group in enumerate(groups)
        for i, rollout in enumerate(group.rollouts)
        if group.outcome_of(i) in (Outcome.TRAINED, Outcome.ZERO_VARIANCE)
    ]


def keep_learner_logprobs(
    groups: Sequence[Group], samples: Sequence[TrainSample], old_logprobs: Sequence[np.ndarray]
) -> None:
    """Write the learner's log-probabilities of ``samples``, made of ``groups``, back to their rollouts."""
    if not samples:
        return
    for group in groups:
        group.learner_logprobs = [None] * len(group.rollouts)
    for sample, values in zip(samples, old_logprobs, strict=True):
        kept = groups[sample.group].learner_logprobs
        assert kept is not None
        kept[sample.index] = values


def check_samples(batch: Sequence[TrainSample]) -> None:
    """Raise ValueError naming the first row that cannot be trained on."""
    for row, sample in enumerate(batch):
        tokens, mask = len(sample), sample.loss_mask
        for name in ("loss_mask", "logprobs", "advantage"):
            shape = np.shape(getattr(sample, name))
            if shape != (tokens,) and not (name == "advantage" and shape == ()):
                raise ValueError(f"row {row} of the batch has {tokens} tokens, but {name} of shape {shape}")
        if mask.dtype != np.bool_:
            raise ValueError(f"row {row} of the batch has a loss_mask of type {mask.dtype}; expected bool")
        if not mask.any():
            raise ValueError(f"row {row} of the batch has no token to train on")
        if mask[0]:
            raise ValueError(f"row {row} of the batch trains on its first token, which nothing predicts")
        advantages = np.broadcast_to(sample.advantage, tokens)
        if not (np.isfinite(sample.logprobs[mask]).all() and np.isfinite(advantages[mask]).all()):
            raise ValueError(f"row {row} has an engine log-probability or advantage that is not finite")
