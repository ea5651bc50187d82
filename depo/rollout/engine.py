"""The contract of a rollout engine: requests in, rollouts out as they finish, weights in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from depo.types import Request, Rollout


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
    """What an engine has done since the last look: rollouts that have ended, and tokens decoded."""

    finished: list[Rollout]
    tokens: int


class RolloutEngine(Protocol):
    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Rollout]:
        """Yield rollouts as they finish, in any order."""
        ...

    def load_weights(self, update: WeightUpdate) -> int:
        """Serve another policy; returns the version now served. Raises WeightSyncError if it cannot."""
        ...

    def close(self) -> None:
        """End what the engine has started; it is not asked for anything afterwards."""
        ...


class WeightSyncError(RuntimeError):
    """The engine does not serve the learner's weights; the message says by how much it is off."""
