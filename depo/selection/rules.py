"""The rules: from beliefs about N candidates to scores (N,), of which the highest are picked.

A rule's random draws come from the keyed generator it is given, one a candidate; equal scores are taken in
random order. N: candidates, G: group size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from depo.recipe import schema
from estimators.base import Estimates
from estimators.moments import informative_probability


@dataclass(frozen=True, slots=True)
class View:
    """What a rule sees of N candidates: beliefs and the group size G; on asking, the completion tokens (N,)
    that one rollout of each is expected to take, and how often (N,) each was visited."""

    estimates: Estimates
    group_size: int
    tokens: Callable[[], np.ndarray]
    visits: Callable[[], np.ndarray]


Rule = Callable[[View, Any, np.random.Generator], np.ndarray]
"""(view of N candidates, the recipe's selection block, keyed generator) → scores (N,)."""


def thompson(view: View, settings: schema.ThompsonSelection, rng: np.random.Generator) -> np.ndarray:
    """Draw p from each belief and score it by the chance of an informative group, 1 − p^G − (1−p)^G.

    The score falls with |p − 1/2|, so that the order is that of MoPPS with its target of 1/2
    (arXiv 2507.04632). With several ``draws`` their mean counts: for n of them the score scatters around
    p_informative by 1/√n of what one would.
    """
    return _drawn(view, settings.draws, rng).mean(axis=0)


def optimistic(view: View, settings: schema.OptimisticSelection, rng: np.random.Generator) -> np.ndarray:
    """p_informative of the belief once a prompt has been visited ``sure_after`` times; before that the best
    of
    ``draws`` draws, as in optimistic Bayesian sampling (May et al., JMLR 13, 2012): what little is known of
    a prompt must not be held against it."""
    drawn_DN = _drawn(view, settings.draws, rng)
    unsure_N = view.visits() < settings.sure_after
    return np.where(unsure_N, drawn_DN.max(axis=0, initial=0.0), view.estimates.p_informative)


def window(view: View, settings: schema.WindowSelection, rng: np.random.Generator) -> np.ndarray:
    """A uniform draw among the means in [low, high] (DEPO, arXiv 2602.06375); should these be too few, then
    the means nearest to the window."""
    mean_N = view.estimates.mean
    outside_N = np.maximum(settings.low - mean_N, mean_N - settings.high)
    return np.where(outside_N <= 0, 1 + rng.random(len(mean_N)), -outside_N)


def threshold(view: View, settings: schema.ThresholdSelection, rng: np.random.Generator) -> np.ndarray:
    """A uniform draw among p_informative ≥ threshold; should these be too few, then the highest
    p_informative."""
    informative_N = view.estimates.p_informative
    return np.where(
        informative_N >= settings.p_informative, 1 + rng.random(len(informative_N)), informative_N
    )


def skip(view: View, settings: schema.SkipSelection, rng: np.random.Generator) -> np.ndarray:
    """The candidates in their order, each kept with probability p_informative (GRESO, arXiv 2506.02177);
    should
    those kept be too few, then the highest p_informative of those skipped."""
    informative_N = view.estimates.p_informative
    size = len(informative_N)
    kept_N = rng.random(size) < informative_N
    return np.where(kept_N, 2 - np.arange(size) / max(size, 1), informative_N)


def gumbel(view: View, settings: schema.GumbelSelection, rng: np.random.Generator) -> np.ndarray:
    """Gumbel top-k on log(p_informative / expected tokens) / temperature: draws without replacement, each
    with probability ∝ (p_informative / tokens)^(1/temperature) (Kool et al., arXiv 1903.06059).

    The signal is p_informative and not E[p(1−p)]: GRPO divides by the group's standard deviation, so that
    every informative group weighs the same (its squared advantages add up to G), and the ledger counts it as
    one.
    """
    signal_N = np.maximum(view.estimates.p_informative, np.finfo(np.float64).tiny)  # log 0 would be all alike
    return np.log(signal_N / view.tokens()) / settings.temperature + rng.gumbel(size=len(signal_N))


def greedy(view: View, settings: schema.GreedySelection, rng: np.random.Generator) -> np.ndarray:
    """The highest p_informative: DPS's choice (arXiv 2603.10887), and the one that starves most prompts."""
    return view.estimates.p_informative


def _drawn(view: View, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Chances of an informative group (draws, N), each under another draw from the beliefs."""
    return np.array(
        [informative_probability(view.estimates.sample(rng), view.group_size) for _ in range(draws)]
    )


RULES: dict[str, Rule] = {
    "thompson": thompson,
    "optimistic": optimistic,
    "window": window,
    "threshold": threshold,
    "skip": skip,
    "gumbel": gumbel,
    "greedy": greedy,
}


def top(
    scores_N: np.ndarray, n: int, rng: np.random.Generator, last_N: np.ndarray | None = None
) -> np.ndarray:
    """Indices (n,) of the highest scores, best first; equal scores in random order. Candidates marked in
    ``last_N`` (bool) come after all others, whatever their score."""
    last_N = np.zeros(len(scores_N), dtype=bool) if last_N is None else last_N
    return np.lexsort((rng.random(len(scores_N)), -scores_N, last_N))[:n]
