"""From groups to the learner's rows, and the learner's log-probabilities back into the groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depo.types import Group, Outcome, TrainingBatch


def rows_of(groups: Sequence[Group]) -> TrainingBatch:
    """The learner's rows, in request order. Groups without advantages (zero variance) enter with 0; surplus
    groups, and rollouts without a verdict, do not enter."""
    rows = [
        (g, i)
        for g, group in enumerate(groups)
        for i in range(len(group.rollouts))
        if group.outcome_of(i) in (Outcome.TRAINED, Outcome.ZERO_VARIANCE)
    ]
    prompts = [np.array(group.pick.prompt.token_ids, dtype=np.int32) for group in groups]
    zeros = [np.zeros(len(group.rollouts)) for group in groups]
    advantages = [
        z if group.advantages is None else group.advantages for group, z in zip(groups, zeros, strict=True)
    ]
    routes = [groups[g].rollouts[i].routes for g, i in rows]
    return TrainingBatch(
        prompt_ids=[prompts[g] for g, _ in rows],
        completion_ids=[groups[g].rollouts[i].token_ids for g, i in rows],
        engine_logprobs=[groups[g].rollouts[i].logprobs for g, i in rows],
        advantages=np.array([advantages[g][i] for g, i in rows], dtype=np.float32),
        group=np.array([g for g, _ in rows], dtype=np.int64),
        routes=None if all(record is None for record in routes) else routes,
    )


def keep_learner_logprobs(groups: Sequence[Group], old_logprobs: Sequence[np.ndarray]) -> None:
    """Write the learner's log-probabilities back into the groups, row by row as ``rows_of`` made them."""
    if not len(old_logprobs):
        return
    rows = iter(old_logprobs)
    for group in groups:
        entering = [
            group.outcome_of(i) in (Outcome.TRAINED, Outcome.ZERO_VARIANCE)
            for i in range(len(group.rollouts))
        ]
        group.learner_logprobs = [next(rows) if enters else None for enters in entering]
