"""From prompts and beliefs to picks, and back from groups to who picked them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depo.selection.reserved import Pool
from depo.types import Group, Origin, Pick, Prompt
from estimators.base import Candidate, Context, Estimates, Estimator, Recalled

UNIFORM = "uniform"
REVISIT = "revisit"


def as_candidates(
    prompts: Sequence[Prompt],
    features: Sequence[np.ndarray] | np.ndarray | None = None,
    recalled: Sequence[Recalled | None] | None = None,
) -> list[Candidate]:
    """N prompts as an estimator sees them: with the policy's view of each, (N, F), and with what the policy
    makes of the earlier answers to each, where these are at hand."""
    if features is None and recalled is None:
        return [Candidate(prompt.key, prompt.text, prompt.prior) for prompt in prompts]
    nothing = [None] * len(prompts)
    return [
        Candidate(prompt.key, prompt.text, prompt.prior, *seen)
        for prompt, *seen in zip(
            prompts,
            nothing if features is None else features,
            nothing if recalled is None else recalled,
            strict=True,
        )
    ]


def beliefs(estimator: Estimator, candidates: Sequence[Candidate], context: Context) -> Estimates:
    """The estimator's word on these. Raises ValueError when it is not made of probabilities."""
    estimates = estimator.predict(candidates, context)
    for name in ("mean", "p_mixed"):
        values_N = np.asarray(getattr(estimates, name))
        wrong = int(np.count_nonzero(~((values_N >= 0) & (values_N <= 1))))  # NaN included
        if values_N.shape != (len(candidates),) or wrong:
            raise ValueError(
                f"{type(estimator).__name__}: {name} must be ({len(candidates)},) probabilities, found "
                f"shape {values_N.shape} with {wrong} outside [0, 1]"
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
            predicted_mixed=float(estimates.p_mixed[row]),
            features=candidates[row].features,
            recalled=candidates[row].recalled,
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
    """(who picked it, was it mixed) of each group that the rule or the uniform order picked."""
    return [
        (group.pick.selector, group.has_signal)
        for group in groups
        if group.pick.origin != Origin.AUDIT and group.pick.selector != REVISIT
    ]
