"""The small steps between the loop's big ones: picks to requests, rollouts to groups, groups to rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from depo.advantages import group_advantages
from depo.rng import seed64
from depo.types import Group, Outcome, Pick, Request, Rollout, TrainingBatch
from estimators.base import Observation
from reward.base import Sample


def requests_for(picks_P: Sequence[Pick], group_size: int, run_seed: int, step: int) -> list[Request]:
    """One request of ``group_size`` keyed samples for each pick."""
    return [
        Request(
            prompt=pick.prompt,
            seeds=tuple(seed64(run_seed, "rollout", step, pick.prompt.key, g) for g in range(group_size)),
        )
        for pick in picks_P
    ]


def collate(requests_P: Sequence[Request], rollouts: Iterable[Rollout]) -> list[list[Rollout]]:
    """Rollouts, which arrive as they finish, in request and sample order: nothing later depends on timing.

    Raises RuntimeError when the engine gave back more or fewer than were asked for.
    """
    by_key: dict[str, list[Rollout]] = {request.prompt.key: [] for request in requests_P}
    for rollout in rollouts:
        by_key[rollout.key].append(rollout)
    for request in requests_P:
        if len(by_key[request.prompt.key]) != request.n:
            raise RuntimeError(
                f"the engine gave {len(by_key[request.prompt.key])} of {request.n} rollouts for prompt "
                f"{request.prompt.key[:12]}"
            )
    return [sorted(by_key[request.prompt.key], key=lambda rollout: rollout.index) for request in requests_P]


def samples_of(
    requests_P: Sequence[Request], rollouts_PG: Sequence[Sequence[Rollout]], tokenizer, max_tokens: int
) -> list[list[Sample]]:
    """What the verifier judges; special tokens are left out of the text."""
    texts = iter(
        tokenizer.batch_decode(
            [rollout.token_ids.tolist() for rollouts_G in rollouts_PG for rollout in rollouts_G],
            skip_special_tokens=True,
        )
    )
    return [
        [
            Sample(
                completion=next(texts),
                reference=request.prompt.reference,
                tokens=len(rollout.token_ids),
                finish_reason=rollout.finish_reason,
                max_tokens=max_tokens,
                prompt=request.prompt.text,
            )
            for rollout in rollouts_G
        ]
        for request, rollouts_G in zip(requests_P, rollouts_PG, strict=True)
    ]


def observations(groups: Sequence[Group], step: int) -> list[Observation]:
    """What the estimator learns from: unscorable rollouts are neither successes nor failures."""
    return [
        Observation(
            key=group.pick.prompt.key,
            text=group.pick.prompt.text,
            successes=group.successes,
            trials=group.trials,
            step=step,
            mean_logprob=group.mean_logprob,
            origin=group.pick.origin.value,
            propensity=group.pick.propensity,
            prior=group.pick.prompt.prior,
            features=group.pick.features,
            recalled=group.pick.recalled,
        )
        for group in groups
    ]


def advantages_into(trained: Sequence[Group], scale: str) -> None:
    """Fill ``advantages`` of the groups that are trained on; an unscorable rollout gets 0."""
    for group in trained:
        values_G = np.array([score.value if score.correct is not None else np.nan for score in group.scores])
        group.advantages = group_advantages(values_G, scale)


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
