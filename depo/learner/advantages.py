"""How much better a rollout did than was to be expected of it: r − b over a scale.

What may stand for the baseline b is whatever does not depend on the rollout itself. Then E[(r − b) ∇log π] is
the true gradient ∇p, since E[∇log π] = 0 (Williams, 1992). Two are built in:

- `group`: the mean of the group (GRPO, arXiv 2402.03300). A group without variance says nothing.
- `belief`: what the estimator believed of the prompt when it was picked, together with the *other* rollouts
  of the group. Every rollout that surprises says something, alone in its group as well (G = 1).

A package adds one of its own as an entry point of the group ``depo.advantages``: a function that takes the
options of ``learner.baseline`` as keywords and returns ``Advantages``.

P: groups of a round, G: rollouts of a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from depo import plugins
from depo.rng import seed64
from depo.types import Group


@dataclass(frozen=True, slots=True)
class Judged:
    """A group as its verdicts and the belief about it show it. NaN where there is none."""

    rewards: np.ndarray  # (G,) float64
    correct: np.ndarray  # (G,) float64: 1 right, 0 wrong
    mean: float  # of the pass rate, as believed when the prompt was picked
    sd: float

    @classmethod
    def of(cls, group: Group) -> Judged:
        verdicts = [score.correct for score in group.scores]
        return cls(
            np.array([math.nan if score.correct is None else score.value for score in group.scores]),
            np.array([math.nan if verdict is None else float(verdict) for verdict in verdicts]),
            group.pick.predicted_mean,
            group.pick.predicted_sd,
        )


Advantages = Callable[[Sequence[Judged]], Sequence[np.ndarray]]
"""P groups of a round → advantages (G,) of each. An unscorable rollout gets 0, whatever stands there."""

STD_OFFSET = 1e-4  # added to a standard deviation of rewards, as TRL's GRPOTrainer does
SURE = 1e6  # pseudo-rollouts of a belief without spread

GROUP = "depo.advantages"
BUILT_IN = {name: f"depo.learner.advantages:{name}" for name in ("group", "belief")}


def build_advantages(spec: dict[str, Any]) -> Advantages:
    """Of a recipe's ``learner.baseline``. Raises ValueError for a plugin that is not there or does not take
    its options."""
    return cast(Advantages, plugins.build(GROUP, BUILT_IN, spec))


def advantages_into(groups: Sequence[Group], advantages: Advantages, least: float = 0.0) -> None:
    """Fill ``advantages`` (G,) float32 of all groups of a round, and ``left_out``: the rollouts that are too
    small to train on (``thinned``). Raises ValueError for advantages that do not fit."""
    judged_P = [Judged.of(group) for group in groups]
    for group, judged, found_G in zip(groups, judged_P, advantages(judged_P), strict=True):
        advantages_G = np.where(np.isnan(judged.correct), 0.0, found_G).astype(np.float32)
        if advantages_G.shape != judged.rewards.shape:
            raise ValueError(f"advantages {advantages_G.shape} for {len(judged.rewards)} rollouts of a group")
        kept_G = np.array([seed64(rollout.seed, "thin") / 2**63 for rollout in group.rollouts])
        group.advantages, left_out_G = thinned(advantages_G, least, kept_G)
        group.left_out = frozenset(np.flatnonzero(left_out_G).tolist())


def thinned(advantages_G: np.ndarray, least: float, draw_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Advantages (G,), and which are left out (G,) bool: of those smaller than ``least`` on either side, a
    share |A| / least is kept and counts as ± least. So the update stays what it is in the mean. Without them
    it would not: of a prompt that is right 9 times in 10, only failures would remain, and the policy would
    only be told what not to do. ``draw_G``: uniform in [0, 1)."""
    small_G = np.abs(advantages_G) < least
    left_out_G = small_G & (np.abs(advantages_G) <= least * draw_G)
    kept_G = small_G & ~left_out_G
    return np.where(kept_G, np.copysign(np.float32(least), advantages_G), advantages_G), left_out_G


# ---------------------------------------------------------------- the group's mean


def group(scale: Literal["group", "batch", "none"] = "group") -> Advantages:
    """r − mean of the group; 0 in a group that is all right or all wrong, whatever a shaped reward adds.

    ``scale`` "group": by std + 1e-4 of the group, with G − 1 in the denominator (GRPO, §4.1.2); "none": not
    at all (Dr. GRPO, arXiv 2503.20783); "batch": see ``normalised``.
    """

    def advantages(judged_P: Sequence[Judged]) -> list[np.ndarray]:
        found_PG = [
            group_advantages(judged.rewards, scale == "group")
            if 0 < np.nansum(judged.correct) < np.count_nonzero(~np.isnan(judged.correct))
            else np.zeros(len(judged.rewards))
            for judged in judged_P
        ]
        return normalised(found_PG, judged_P) if scale == "batch" else found_PG

    return advantages


def group_advantages(rewards_G: np.ndarray, scale: bool) -> np.ndarray:
    """Unscorable rollouts are left out of mean and std; with fewer than two scorable ones nothing can be
    compared and all are 0."""
    rewards_G = np.asarray(rewards_G, dtype=np.float64)
    scorable_G = ~np.isnan(rewards_G)
    advantages_G = np.zeros(rewards_G.shape, dtype=np.float32)
    if scorable_G.sum() < 2:
        return advantages_G
    scored = rewards_G[scorable_G]
    deviations = scored - scored.mean()
    advantages_G[scorable_G] = deviations / (scored.std(ddof=1) + STD_OFFSET) if scale else deviations
    return advantages_G


# ---------------------------------------------------------------- the belief


def belief(
    pseudo_rollouts: float | Literal["auto"] = "auto",
    floor: float = 0.33,
    scale: Literal["belief", "batch", "none"] = "belief",
) -> Advantages:
    """r − b, with b between what was believed and what the siblings did.

    The belief counts as w rollouts at its mean p̂. For the i-th of n scorable rollouts, c being verdicts,

        q_i = (w p̂ + Σ_{j≠i} c_j) / (w + n − 1)          leave one out: q_i does not know rollout i

    is the pass rate to expect of it. Which w? Let p have mean p̂ and variance σ² under the belief. Of all
    q_i linear in the siblings' outcomes, the one nearest to p in mean square has

        w = E[p (1 − p)] / σ² = (p̂ (1 − p̂) − σ²) / σ²

    (Bühlmann's credibility, 1967; for a Beta(α, β) it is α + β). That is "auto". A sure belief stands alone;
    a vague one leaves it to the siblings.

    Verdicts become rewards by two levels, the mean rewards of right and of wrong rollouts in the *other*
    groups of the round: 1 and 0 unless rewards are shaped. Then b_i lies at q_i between the two, and

        A_i = (r_i − b_i) / (max(√(q_i (1 − q_i)), floor) · |level of right − level of wrong|)

    for ``scale`` "belief". The floor keeps one lucky rollout of a hopeless prompt from ruling the batch.
    "batch": see ``normalised``; "none": r − b.
    """

    def advantages(judged_P: Sequence[Judged]) -> list[np.ndarray]:
        right_P, wrong_P = levels(judged_P)
        found_PG = []
        for judged, right, wrong in zip(judged_P, right_P, wrong_P, strict=True):
            weight = worth(judged.mean, judged.sd) if pseudo_rollouts == "auto" else pseudo_rollouts
            rate_G = expected_rates(judged, weight)
            spread_G = np.abs(right - wrong) * np.maximum(np.sqrt(rate_G * (1 - rate_G)), floor)
            surprise_G = judged.rewards - (wrong + rate_G * (right - wrong))
            scaled = scale == "belief" and right != wrong
            found_PG.append(np.nan_to_num(surprise_G / spread_G if scaled else surprise_G))
        return normalised(found_PG, judged_P) if scale == "batch" else found_PG

    return advantages


def worth(mean: float, sd: float) -> float:
    """How many rollouts a belief is worth: (mean (1 − mean) − sd²) / sd², at most ``SURE``, at least 0."""
    spread = mean * (1 - mean)
    return SURE if sd**2 <= spread / (SURE + 1) else max(spread / sd**2 - 1, 0.0)


def expected_rates(judged: Judged, weight: float) -> np.ndarray:
    """q_i above, (G,); NaN where there is nothing to go by: no belief and no sibling."""
    mean, weight = (0.0, 0.0) if math.isnan(judged.mean) else (judged.mean, weight)
    siblings_G = np.nansum(judged.correct) - np.nan_to_num(judged.correct)
    trials_G = weight + np.count_nonzero(~np.isnan(judged.correct)) - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(trials_G > 0, (weight * mean + siblings_G) / trials_G, np.nan)


def levels(judged_P: Sequence[Judged]) -> tuple[np.ndarray, np.ndarray]:
    """Mean reward (P,) of right and of wrong rollouts in all groups but each itself; 1 and 0 where there are
    none."""
    found = []
    for verdict, missing in ((1.0, 1.0), (0.0, 0.0)):
        chosen = [judged.rewards[judged.correct == verdict] for judged in judged_P]
        total_P = np.array([rewards.sum() for rewards in chosen])
        count_P = np.array([len(rewards) for rewards in chosen])
        others_P = count_P.sum() - count_P
        mean_P = (total_P.sum() - total_P) / np.maximum(others_P, 1)
        found.append(np.where(others_P > 0, mean_P, missing))
    return found[0], found[1]


def normalised(found_PG: Sequence[np.ndarray], judged_P: Sequence[Judged]) -> list[np.ndarray]:
    """Advantages of all scorable rollouts of a round to mean 0 and standard deviation 1 (SPO, arXiv
    2509.13232, §3.3)."""
    scorable_PG = [~np.isnan(judged.correct) for judged in judged_P]
    every = np.concatenate(
        [np.zeros(0), *(found[scorable] for found, scorable in zip(found_PG, scorable_PG, strict=True))]
    )
    mean, std = (every.mean(), every.std()) if len(every) else (0.0, 1.0)
    return [(found_G - mean) / (std + STD_OFFSET) for found_G in found_PG]
