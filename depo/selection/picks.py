"""What a selector is told, and from prompts and beliefs to picks, with the places that no rule decides about;
and back from groups to observations.

P: prompts of the pool, N: candidates, F: features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from depo.estimators.base import Candidate, Context, Estimates, Observation
from depo.rng import generator
from depo.selection.visits import Visits
from depo.types import Group, Origin, Pick, Prompt

CANDIDATES = 8  # for each prompt of a batch: candidates "auto"
PASSES = 4  # revisit_after "auto": the time of so many passes over the pool

UNIFORM = "uniform"
"""Who picked: no rule, but the pool's order or a uniform draw."""

REVISIT = "revisit"
"""Who picked: the places reserved for overdue prompts."""


@dataclass(frozen=True, slots=True)
class SelectionSettings:
    """Raises ValueError where two settings contradict each other."""

    batch: int
    """B: prompts that a step wants."""
    refill: bool = False
    """Pick further rounds until B groups are informative."""
    max_rounds: int = 4
    """Rounds of a step at most, the first included."""
    audit: float = 0.05
    """Share of a first round that is drawn uniformly from the pool, whatever the estimator says."""
    window: int = 400
    """Uniformly drawn groups over which the estimator is graded."""
    min_window: int = 200
    """Selection is uniform until so many have been graded; 0: never for that reason."""
    warmup_steps: int = 0
    """Selection is uniform for so many steps, whatever the estimator is worth."""
    confidence: float = 0.95
    """Of the one-sided tests by which the gate opens and closes."""
    graded_on: Literal["informative", "pass_rate"] = "informative"
    """What the estimator's predictions are held against: whether a group was informative, or its pass rate,
    where the belief is the baseline."""
    evict_mastered: bool = False
    """Never pick a prompt again whose group was all right, as long as there are enough others."""
    candidates: int | Literal["auto"] = "auto"
    """Prompts that a rule considers in a round; auto: 8 · B."""
    cooldown: int = 0
    """Steps during which a prompt just visited is passed over, as long as there are others."""
    revisit_after: int | Literal["auto"] | None = "auto"
    """Steps after which a prompt gets a reserved place; auto: 4 · pool / B; None: never."""
    revisit_share: float = 0.05
    """Largest share of a first round that such prompts get."""

    def __post_init__(self) -> None:
        if self.min_window > self.window:
            raise ValueError(f"min_window {self.min_window} exceeds window {self.window}")
        if self.considered < self.batch:
            raise ValueError(
                f"candidates {self.candidates} must be at least the batch of {self.batch}: a round is chosen "
                "among them"
            )
        reserved = self.revisit_share if self.revisit_after is not None else 0.0
        if self.audit + reserved > 1:
            raise ValueError(f"audit {self.audit} and revisit_share {reserved} add up to more than 1")

    @property
    def fewest_trials(self) -> int:
        """Scorable rollouts with which a group can be graded and trained on."""
        return 2 if self.graded_on == "informative" else 1

    @property
    def considered(self) -> int:
        """Candidates of a round."""
        return CANDIDATES * self.batch if self.candidates == "auto" else self.candidates

    def longest_wait(self, pool_size: int) -> int | None:
        """Steps that a prompt may wait before it gets a reserved place; None: for ever."""
        if self.revisit_after == "auto":
            return math.ceil(PASSES * pool_size / self.batch)
        return self.revisit_after


class Pool(Protocol):
    """What the selector needs of a PromptPool."""

    @property
    def by_key(self) -> Sequence[Prompt]: ...

    def __len__(self) -> int: ...

    def next(self, n: int) -> list[Prompt]: ...

    def peek(self, n: int) -> list[Prompt]: ...

    def candidates(self, n: int, rng: np.random.Generator) -> list[Prompt]: ...


def audited(settings: SelectionSettings, pool: Pool, round_size: int, seed: int, step: int) -> list[Prompt]:
    """The audit slice: a share ``audit`` of the round, drawn uniformly from the whole pool. A fractional part
    is one more prompt with that probability: the long-run share is right in small rounds too."""
    rng = generator(seed, "audit", step)
    n = whole(settings.audit * round_size, rng)
    return pool.candidates(n, rng) if n else []


def overdue(
    settings: SelectionSettings,
    pool: Pool,
    visits: Visits,
    round_size: int,
    seed: int,
    step: int,
    taken: Sequence[Prompt],
) -> list[Prompt]:
    """Prompts that have waited longer than ``revisit_after`` steps, longest first, equal ones in random
    order: at most ``revisit_share`` of the round, rounded as the audit slice is, none that is taken, and
    none that rests because nothing could be verified of it."""
    limit = settings.longest_wait(len(pool))
    if limit is None or step <= limit:
        return []
    rng = generator(seed, "revisit", step)
    n = whole(settings.revisit_share * round_size, rng)
    waited_P = visits.waited(pool.by_key, step)
    drawn_P, late_N = rng.random(len(waited_P)), np.flatnonzero(waited_P > limit)
    order_N = np.lexsort((drawn_P[late_N], -waited_P[late_N]))
    closed = {prompt.key for prompt in taken} | visits.resting(step)
    late = [pool.by_key[row] for row in late_N[order_N[: n + len(closed)]]]
    return [prompt for prompt in late if prompt.key not in closed][:n]


def whole(expected: float, rng: np.random.Generator) -> int:
    """``expected`` rounded down, or up with the probability of its fraction: right in the long run."""
    return math.floor(expected) + int(rng.random() < expected - math.floor(expected))


def as_candidates(
    prompts: Sequence[Prompt],
    features: Sequence[np.ndarray] | np.ndarray | None = None,
) -> list[Candidate]:
    """N prompts as an estimator sees them: with the prefill probe (N, F) where it is at hand."""
    told = [None] * len(prompts) if features is None else features
    return [
        Candidate(prompt.key, prompt.text, prompt.prior, seen)
        for prompt, seen in zip(prompts, told, strict=True)
    ]


class Predictor(Protocol):
    """What the selector needs of an estimator."""

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates: ...


def beliefs(estimator: Predictor, candidates: Sequence[Candidate], context: Context) -> Estimates:
    """The estimator's word on these. Raises ValueError when it is not made of probabilities."""
    estimates = estimator.predict(candidates, context)
    for name in ("mean", "p_informative"):
        values_N = np.asarray(getattr(estimates, name))
        wrong = int(np.count_nonzero(~((values_N >= 0) & (values_N <= 1))))  # NaN included
        if values_N.shape != (len(candidates),) or wrong:
            raise ValueError(
                f"{type(estimator).__name__}: {name} must be ({len(candidates)},) probabilities, found "
                f"shape {values_N.shape} with {wrong} outside [0, 1]"
            )
    sd_N = np.asarray(estimates.sd)
    if sd_N.shape != (len(candidates),) or not (np.isfinite(sd_N) & (sd_N >= 0)).all():
        raise ValueError(
            f"{type(estimator).__name__}: sd must be ({len(candidates)},) finite numbers of at least 0"
        )
    return estimates


def described(
    prompts: Sequence[Prompt],
    candidates: Sequence[Candidate],
    estimates: Estimates,
    origin: Origin,
    selector: str,
    propensity: float,
    rows: Sequence[int] | np.ndarray | None = None,
) -> list[Pick]:
    """Picks of the given rows (all when None), with what was seen of them and is believed about them now.
    Whatever the selector "uniform" picked counts as a uniform draw."""
    return [
        Pick(
            prompt=prompts[row],
            origin=origin,
            selector=selector,
            uniform=selector == UNIFORM,
            propensity=propensity,
            predicted_mean=float(estimates.mean[row]),
            predicted_informative=float(estimates.p_informative[row]),
            predicted_sd=float(estimates.sd[row]),
            features=candidates[row].features,
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
    """(who picked it, was it informative) of each group that the rule or the uniform order picked."""
    return [
        (group.pick.selector, group.informative)
        for group in groups
        if group.pick.origin != Origin.AUDIT and group.pick.selector != REVISIT
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
        )
        for group in groups
    ]
