"""From groups to the learner's samples, and the learner's log-probabilities back into the groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depo.types import Group, Outcome, TrainSample


def train_samples(groups: Sequence[Group]) -> list[TrainSample]:
    """The learner's samples, in request order. Zero-variance groups enter with advantage 0; surplus groups,
    rollouts without a verdict and those that teach too little do not enter."""
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
