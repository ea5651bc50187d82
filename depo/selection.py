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

    def pick(self, pool: Pool, estimator: Estimator, context: Context, done: Sequence[Group]) -> list[Pick]:
        """The next wave of this step; [] when the step has what it needs. ``done`` holds the groups of the
        step's earlier waves: none of their prompts is picked again.

        Raises ValueError when the estimator's beliefs are not probabilities.
        """
        if not done:
            self._waves, self._order = 0, {}
        used = self._order.keys() | {group.pick.prompt.key for group in done}
        n = min(self._wave_size(done), len(pool) - len(used))
        if n <= 0:
            return []
        self._waves += 1
        origin = Origin.REFILL if done else Origin.SELECTED
        if self.rule == UNIFORM:
            prompts = next_unused(pool, n, used)
            picks = described(prompts, beliefs(estimator, prompts, context), origin, UNIFORM, 1 / len(pool))
        else:
            audit = [] if done else self._audited(pool, n, context.step)
            propensity = self.selection.audit / len(pool)
            picks = described(audit, beliefs(estimator, audit, context), Origin.AUDIT, UNIFORM, propensity)
            used |= {prompt.key for prompt in audit}
            picks += self._chosen(pool, n - len(audit), estimator, context, used, origin)
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
        mixed = [was_mixed for rule, was_mixed in [*self._recent, *yields(done)] if rule == self.rule]
        return max(sum(mixed) / len(mixed), LOWEST_YIELD) if mixed else 1.0

    def _audited(self, pool: Pool, wave: int, step: int) -> list[Prompt]:
        """The audit slice: ε·B prompts drawn uniformly from the whole pool. A fractional part is one more
        prompt with that probability, so that the long-run share is ε in small batches too."""
        rng = generator(self.seed, "audit", step)
        expected = self.selection.audit * wave
        n = math.floor(expected) + int(rng.random() < expected - math.floor(expected))
        return pool.candidates(n, rng) if n else []

    def _chosen(
        self, pool: Pool, n: int, estimator: Estimator, context: Context, used: set[str], origin: Origin
    ) -> list[Pick]:
        """The n candidates that the rule scores highest."""
        assert not isinstance(self.selection, config.UniformSelection)
        rng = generator(self.seed, "select", context.step, index=len(used))
        considered = min(self.selection.candidates + len(used), len(pool))
        candidates = [prompt for prompt in pool.candidates(considered, rng) if prompt.key not in used]
        estimates = beliefs(estimator, candidates, context)
        scores_N = RULES[self.selection.type](estimates, context.group_size, rng)
        rows = top(scores_N, n, rng)
        return described(candidates, estimates, origin, self.selection.type, math.nan, rows)

    def observe(self, groups: Sequence[Group]) -> None:
        """Grade the predictions of the uniformly drawn groups, and note what the rule's own picks yielded.

        Groups with fewer than two scorable rollouts grade nothing. Raises ValueError for a group that was
        not picked in this step.
        """
        groups = self._in_request_order(groups)
        for group in groups:
            if group.pick.uniform and group.trials >= 2:
                self.calibration.add(
                    Graded(
                        group.pick.predicted_mixed, group.pick.predicted_mean, group.successes, group.trials
                    )
                )
        self._recent.extend(yields(groups))

    def settle(self, groups: Sequence[Group]) -> list[Group]:
        """Set each group's outcome; returns, in request order, the groups to train on: the first B with
        signal, whatever order they finished in. Raises ValueError for a group not picked in this step."""
        trained: list[Group] = []
        for group in self._in_request_order(groups):
            if group.trials < 2:
                group.outcome = Outcome.UNSCORABLE
            elif not group.has_signal:
                group.outcome = Outcome.ZERO_VARIANCE
            elif len(trained) == self.batch.prompts:
                group.outcome = Outcome.SURPLUS
            else:
                group.outcome = Outcome.TRAINED
                trained.append(group)
        return trained

    def _in_request_order(self, groups: Sequence[Group]) -> list[Group]:
        strangers = [group.pick.prompt.key for group in groups if group.pick.prompt.key not in self._order]
        if strangers:
            raise ValueError(f"prompt {strangers[0]} was not picked in this step")
        return sorted(groups, key=lambda group: self._order[group.pick.prompt.key])

    def metrics(self) -> dict[str, float]:
        """``selection/active`` is 1 while the rule chooses and 0 while selection is uniform; the figures
        under ``calibration/`` are those of ``Calibration.metrics``."""
        calibration = {f"calibration/{name}": value for name, value in self.calibration.metrics().items()}
        return {
            "selection/active": float(self.rule != UNIFORM),
            "selection/expected_yield": self.expected_yield(),
            **calibration,
        }

    def state_dict(self) -> dict[str, Any]:
        """JSON, taken between two steps: what is kept within a step is not part of it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "calibration": self.calibration.state_dict(),
            "recent": [[rule, bool(mixed)] for rule, mixed in self._recent],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"selector state has schema_version {state['schema_version']}, expected {SCHEMA_VERSION}"
            )
        self.calibration.load_state_dict(state["calibration"])
        self._recent.clear()
        self._recent.extend((rule, bool(mixed)) for rule, mixed in state["recent"])
        self._waves, self._order = 0, {}


# ---------------------------------------------------------------- small steps


def beliefs(estimator: Estimator, prompts: Sequence[Prompt], context: Context) -> Estimates:
    """The estimator's word on these prompts. Raises ValueError when it is not made of probabilities."""
    candidates = [Candidate(key=prompt.key, text=prompt.text, prior=prompt.prior) for prompt in prompts]
    estimates = estimator.predict(candidates, context)
    for name in ("mean", "p_mixed"):
        values_N = np.asarray(getattr(estimates, name))
        wrong = int(np.count_nonzero(~((values_N >= 0) & (values_N <= 1))))  # NaN included
        if values_N.shape != (len(prompts),) or wrong:
            raise ValueError(
                f"{type(estimator).__name__}: {name} must be ({len(prompts)},) probabilities, found shape "
                f"{values_N.shape} with {wrong} outside [0, 1]"
            )
    return estimates


def described(
    prompts: Sequence[Prompt],
    estimates: Estimates,
    origin: Origin,
    selector: str,
    propensity: float,
    rows: Sequence[int] | np.ndarray | None = None,
) -> list[Pick]:
    """Picks of the given rows (all when None), with what is believed about them now. Whatever the selector
    "uniform" picked counts as a uniform draw."""
    return [
        Pick(
            prompt=prompts[row],
            origin=origin,
            selector=selector,
            uniform=selector == UNIFORM,
            propensity=propensity,
            predicted_mean=float(estimates.mean[row]),
            predicted_mixed=float(estimates.p_mixed[row]),
        )
        for row in (range(len(prompts)) if rows is None else rows)
    ]


def next_unused(pool: Pool, n: int, used: set[str]) -> list[Prompt]:
    """The next n prompts in the pool's shuffled order. Where a pass ends within a step, the new pass may
    bring prompts the step already has: these are passed over."""
    prompts: list[Prompt] = []
    used = set(used)
    while len(prompts) < n:
        for prompt in pool.next(n - len(prompts)):
            if prompt.key not in used:
                used.add(prompt.key)
                prompts.append(prompt)
    return prompts


def yields(groups: Sequence[Group]) -> list[tuple[str, bool]]:
    """(who picked it, was it mixed) of each group outside the audit slice."""
    return [(group.pick.selector, group.has_signal) for group in groups if group.pick.origin != Origin.AUDIT]
