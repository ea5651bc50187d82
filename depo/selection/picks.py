"""From prompts and beliefs to picks, and back from groups to who picked them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depo.selection.reserved import Pool
from depo.selection.sight import NOTHING, Sights
from depo.types import Group, Origin, Pick, Prompt
from estimators.base import Candidate, Context, Estimates, Estimator

UNIFORM = "uniform"
REVISIT = "revisit"


def as_candidates(prompts: Sequence[Prompt], sights: Sights | None = None) -> list[Candidate]:
    """Prompts as an estimator sees them."""
    candidates = []
    for prompt in prompts:
        sight = (sights or {}).get(prompt.key, NOTHING)
        candidates.append(Candidate(prompt.key, prompt.text, prompt.prior, sight.features, sight.recalled))
    return candidates


def beliefs(
    estimator: Estimator, prompts: Sequence[Prompt], context: Context, sights: Sights | None = None
) -> Estimates:
    """The estimator's word on these prompts. Raises ValueError when it is not made of probabilities."""
    estimates = estimator.predict(as_candidates(prompts, sights), context)
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
    sights: Sights | None = None,
) -> list[Pick]:
    """Picks of the given rows (all when None), with what is believed about them now. Whatever the selector
    "uniform" picked counts as a uniform draw."""
    picks = []
    for row in range(len(prompts)) if rows is None else rows:
        sight = (sights or {}).get(prompts[row].key, NOTHING)
        picks.append(
            Pick(
                prompt=prompts[row],
                origin=origin,
                selector=selector,
                uniform=selector == UNIFORM,
                propensity=propensity,
                predicted_mean=float(estimates.mean[row]),
                predicted_mixed=float(estimates.p_mixed[row]),
                features=sight.features,
                recalled=sight.recalled,
            )
        )
    return picks


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
    """(who picked it, was it mixed) of each group that the rule or the uniform order picked."""
    return [
        (group.pick.selector, group.has_signal)
        for group in groups
        if group.pick.origin != Origin.AUDIT and group.pick.selector != REVISIT
    ]
