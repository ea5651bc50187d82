"""The places of a first wave that no rule decides about: the audit slice and prompts that waited too long.

P: prompts of the pool, B: prompts a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from depo import config
from depo.rng import generator
from depo.selection.visits import Visits
from depo.types import Prompt

AUTO_PASSES = 4  # revisit_after: auto


class Pool(Protocol):
    """What the selector needs of a PromptPool."""

    @property
    def by_key(self) -> Sequence[Prompt]: ...

    def __len__(self) -> int: ...

    def next(self, n: int) -> list[Prompt]: ...

    def peek(self, n: int) -> list[Prompt]: ...

    def candidates(self, n: int, rng: np.random.Generator) -> list[Prompt]: ...


def audited(selection: config.SelectionBase, pool: Pool, wave: int, seed: int, step: int) -> list[Prompt]:
    """The audit slice: ε·B prompts drawn uniformly from the whole pool. A fractional part is one more
    prompt with that probability, so that the long-run share is ε in small batches too."""
    rng = generator(seed, "audit", step)
    n = whole(selection.audit * wave, rng)
    return pool.candidates(n, rng) if n else []


def overdue(
    selection: config.RuleSelection,
    batch: config.Batch,
    pool: Pool,
    visits: Visits,
    wave: int,
    seed: int,
    step: int,
    taken: Sequence[Prompt],
) -> list[Prompt]:
    """Prompts that have waited longer than ``revisit_after`` steps, longest first, equal ones in random
    order: at most ``revisit_share`` of the wave, rounded as the audit slice is, none that is taken, and
    none that rests because nothing could be verified of it."""
    limit = revisit_after(selection, batch, len(pool))
    if limit is None or step <= limit:
        return []
    rng = generator(seed, "revisit", step)
    n = whole(selection.revisit_share * wave, rng)
    waited_P = visits.waited(pool.by_key, step)
    order_P = np.lexsort((rng.random(len(waited_P)), -waited_P))
    closed = {prompt.key for prompt in taken} | visits.resting(step)
    late = [pool.by_key[row] for row in order_P[: n + len(closed)] if waited_P[row] > limit]
    return [prompt for prompt in late if prompt.key not in closed][:n]


def revisit_after(selection: config.RuleSelection, batch: config.Batch, pool_size: int) -> int | None:
    """Steps that a prompt may wait before it gets a reserved place; None: for ever."""
    if selection.revisit_after == "auto":
        return math.ceil(AUTO_PASSES * pool_size / batch.prompts)
    return selection.revisit_after


def whole(expected: float, rng: np.random.Generator) -> int:
    """``expected`` rounded down, or up with the probability of its fraction: right in the long run."""
    return math.floor(expected) + int(rng.random() < expected - math.floor(expected))
