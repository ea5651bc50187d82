"""Which prompts are worth rolling out. Estimators believe, the selector chooses.

One step: a first wave of B picks, a small audit share of which is drawn uniformly whatever the estimator
says; with ``refill``, further waves until B groups carry signal. Selection is uniform until the estimator
has proved itself on uniformly drawn groups, and falls back to that when it has gone bad (``calibration``).

Every draw is keyed by (seed, purpose, step, groups already there): no call depends on calls before it.
N: candidates, B: prompts a batch, G: group size.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from depo import config
from depo.calibration import Calibration, Graded
from depo.rng import generator
from depo.types import Group, Origin, Outcome, Pick, Prompt
from estimators.base import Candidate, Context, Estimates, Estimator
from estimators.moments import mixed_probability

SCHEMA_VERSION = 1
UNIFORM = "uniform"
LOWEST_YIELD = 1 / 8  # a refill wave is at most this many times larger than what is missing


class Pool(Protocol):
    """What the selector needs of a PromptPool."""

    def __len__(self) -> int: ...

    def next(self, n: int) -> list[Prompt]: ...

    def candidates(self, n: int, rng: np.random.Generator) -> list[Prompt]: ...


# ---------------------------------------------------------------- rules: beliefs to scores

Rule = Callable[[Estimates, int, np.random.Generator], np.ndarray]
"""(beliefs about N candidates, G, keyed generator) → scores (N,); the highest are picked."""


def thompson(estimates: Estimates, group_size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw p from each belief and score it by the chance of a mixed group, 1 − p^G − (1−p)^G.

    The score falls with |p − 1/2|, so that the order is that of MoPPS with its target of 1/2
    (arXiv 2507.04632).
    """
    return mixed_probability(estimates.sample(rng), group_size)


RULES: dict[str, Rule] = {"thompson": thompson}


def top(scores_N: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Indices (n,) of the highest scores, best first; equal scores in random order."""
    return np.lexsort((rng.random(len(scores_N)), -scores_N))[:n]


# ---------------------------------------------------------------- selector


class Selector:
    def __init__(self, selection: config.Selection, batch: config.Batch, seed: int) -> None:
        self.selection = selection
        self.batch = batch
        self.seed = seed
        self.calibration = Calibration(selection.window, selection.min_window, selection.confidence)
        # Who picked a group and whether it was mixed, audit left out: the yield that sizes refill waves.
        self._recent: deque[tuple[str, bool]] = deque(maxlen=selection.window)
        self._order: dict[str, int] = {}  # prompt key → position among this step's picks
        self._waves = 0

    @property
    def rule(self) -> str:
        """Who picks now: the rule of the recipe, or "uniform" while the gate is closed."""
        return self.selection.type if self.calibration.open else UNIFORM

    def pick(
        self, pool: Pool, estimator: Estimator, context: Context, done: Sequence[Group]
    ) -> list[Pick]:
        """The next wave of this step; [] when the step has what it needs. ``done`` holds the groups of the
        step's earlier waves: none of their prompts is picked again.

        Raises ValueError when the estimator's beliefs are not finite.
        """
        if not done:
            self._waves, self._order = 0, {}
        n = min(self._wave_size(done), len(pool) - len(done))
        if n <= 0:
            return []
        self._waves += 1
        used = {group.pick.prompt.key for group in done}
        if self.rule == UNIFORM:
            prompts = next_unused(pool, n, used)
            picks = self._uniform_picks(prompts, estimator, context, Origin.REFILL if done else Origin.SELECTED)
        else:
            audit = [] if done else self._audit_picks(pool, n, estimator, context)
            used |= {pick.prompt.key for pick in audit}
            picks = audit + self._rule_picks(pool, n - len(audit), estimator, context, done, used)
        for pick in picks:
            self._order[pick.prompt.key] = len(self._order)
        return picks

    def _wave_size(self, done: Sequence[Group]) -> int:
        """B at first. Then what is missing by the yield to expect of whoever picks now; at most B, so that
        no wave needs more memory than the first."""
        if not done:
            return self.batch.prompts
        missing = self.batch.prompts - sum(group.has_signal for group in done)
        if missing <= 0 or not self.selection.refill or self._waves >= self.selection.max_waves:
            return 0
        return min(math.ceil(missing / self.expected_yield(done)), self.batch.prompts)

    def expected_yield(self, done: Sequence[Group] = ()) -> float:
        """Share of mixed groups among the current rule's recent picks, this step's included; in [1/8, 1]."""
        mixed = [was_mixed for rule, was_mixed in [*self._recent, *yield_records(done)] if rule == self.rule]
        return max(sum(mixed) / len(mixed), LOWEST_YIELD) if mixed else 1.0

    def _audit_picks(self, pool: Pool, wave: int, estimator: Estimator, context: Context) -> list[Pick]:
        """The audit slice: ε·B prompts drawn uniformly from the whole pool. The fractional part is one more
        prompt with that probability, so that the long-run share is ε also in small batches."""
        rng = generator(self.seed, "audit", context.step)
        expected = self.selection.audit * wave
        n = math.floor(expected) + int(rng.random() < expected - math.floor(expected))
        return self._uniform_picks(pool.candidates(n, rng) if n else [], estimator, context, Origin.AUDIT)

    def _uniform_picks(
        self, prompts: Sequence[Prompt], estimator: Estimator, context: Context, origin: Origin
    ) -> list[Pick]:
        raise NotImplementedError
