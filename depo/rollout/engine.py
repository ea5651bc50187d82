"""The contract of a rollout engine: requests in, rollouts out as they finish, weights in between.

And what stands before and after it: requests made of picks, and samples for the verifier made of rollouts.
P prompts, groups of G.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from depo.reward.base import Sample
from depo.rng import seed64
from depo.types import Pick, Request, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from depo.selection.visits import Visits


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """A policy to be served: version number and, unless weights are shared in place, the directory
    (on a memory file system) to which the learner wrote it in Hugging Face format: all of it, or the blocks
    that differ from the checkpoint which the engine was started from."""

    version: int
    directory: str | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. Training uses the full distribution: top_p = 1 and no top_k, otherwise
    the recorded log-probabilities are not those sampled from. ``temperature`` 0 means greedy, for
    evaluation only. ``routes``: record the experts of each token (see ``Rollout.routes``)."""

    temperature: float
    max_new_tokens: int
    routes: bool = False


LOOK_SECONDS = 5.0
"""Of decoding between two looks at what has ended and how many tokens there are."""


@dataclass(frozen=True, slots=True)
class Look:
    """What an engine has done since the last look: rollouts that have ended, tokens decoded, and, where it
    works a look at a time, how many completions it has not ended."""

    finished: list[Rollout]
    tokens: int
    left: int = 0


class RolloutEngine(Protocol):
    def generate(
        self, requests: Iterable[Request], sampling: Sampling, oldest: int | None = None
    ) -> Iterator[Rollout]:
        """Yield rollouts as they finish, in any order; each is of one policy, version ``oldest`` or newer.
        None: the newest that the engine was told of, and before what else waits."""
        ...

    def load_weights(self, update: WeightUpdate) -> int:
        """Serve another policy; returns the version now served. Raises WeightSyncError if it cannot."""
        ...

    def close(self) -> None:
        """End what the engine has started; it is not asked for anything afterwards."""
        ...


class WeightSyncError(RuntimeError):
    """The engine does not serve the learner's weights; the message says by how much it is off."""


def requests_for(
    picks_P: Sequence[Pick], indices: range, run_seed: int, step: int, visits: Visits | None = None
) -> list[Request]:
    """One request for each pick, of the keyed samples with these consecutive indices in their group.
    ``visits`` tell how long the completions will be."""
    return [
        Request(
            prompt=pick.prompt,
            seeds=tuple(seed64(run_seed, "rollout", step, pick.prompt.key, index) for index in indices),
            first_index=indices.start,
            tokens=None if visits is None else visits.expected(pick.prompt),
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

    def texts(rollouts_G: Sequence[Rollout]) -> list[str]:
        """Group by group: a list of all tokens of a step would be gigabytes."""
        ids_GT = [rollout.token_ids.tolist() for rollout in rollouts_G]
        return tokenizer.batch_decode(ids_GT, skip_special_tokens=True)

    return [
        [
            Sample(
                completion=text,
                reference=request.prompt.reference,
                tokens=len(rollout.token_ids),
                finish_reason=rollout.finish_reason,
                max_tokens=max_tokens,
                prompt=request.prompt.text,
            )
            for rollout, text in zip(rollouts_G, texts(rollouts_G), strict=True)
        ]
        for request, rollouts_G in zip(requests_P, rollouts_PG, strict=True)
    ]
