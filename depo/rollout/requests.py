"""From picks to requests, and from rollouts to what the verifier judges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from depo.rng import seed64
from depo.types import Pick, Request, Rollout
from reward.base import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    requests_P: Sequence[Request],
    rollouts_PG: Sequence[Sequence[Rollout]],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
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
