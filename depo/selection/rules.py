"""The rules: from beliefs about N candidates to scores (N,), of which the highest are picked.

A rule is an object that owns its options. Rules are registered as entry points of the group ``depo.rules``: a
name, and a callable that takes the options as keywords and returns the rule.

A rule's random draws come from the keyed generator it is given, one a candidate; equal scores are taken in
random order. N: candidates, G: group size, n: picks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from depo.estimators.base import Estimates
from depo.estimators.moments import informative_probability
from depo.plugins import build

GROUP = "depo.rules"
BUILT_IN = {
    "thompson": "depo.selection.rules:Thompson",
    "optimistic": "depo.selection.rules:Optimistic",
    "window": "depo.selection.rules:Window",
    "threshold": "depo.selection.rules:Threshold",
    "skip": "depo.selection.rules:Skip",
    "gumbel": "depo.selection.rules:Gumbel",
    "greedy": "depo.selection.rules:Greedy",
    "prioritized": "depo.selection.rules:Prioritized",
}


@dataclass(frozen=True, slots=True)
class Considered:
    """What a rule sees of the N candidates: beliefs and the group size G; on asking, the completion tokens
    (N,) that one rollout of each is expected to take, and how often (N,) each was visited."""

    estimates: Estimates
    group_size: int
    tokens: Callable[[], np.ndarray]
    visits: Callable[[], np.ndarray]


class Rule(Protocol):
    """``name`` stands in every pick that the rule makes. Its candidates are a uniform draw from the pool,
    unless it is ``InPoolOrder``."""

    @property
    def name(self) -> str: ...

    def __call__(self, considered: Considered, rng: np.random.Generator) -> np.ndarray:
        """Scores (N,) float64, with N possibly 0."""
        ...


@runtime_checkable
class InPoolOrder(Protocol):
    """A rule whose candidates are the next prompts in the pool's order."""

    def passed(self, scores_N: np.ndarray, rows_n: np.ndarray) -> int:
        """How many of the candidates, from the first on, have had their turn once those at ``rows_n`` are
        picked. The pool moves on past them, picked or not."""
        ...


@dataclass(frozen=True)
class Thompson:
    """Draw p from each belief and score it by the chance of an informative group, 1 − p^G − (1−p)^G.

    The score falls with |p − 1/2|, which makes the order that of MoPPS with its target of 1/2
    (arXiv 2507.04632). With several ``draws`` their mean counts: for n of them the score scatters around
    p_informative by 1/√n of what one would. ``per_token``: that chance by the tokens which a rollout is
    expected to take.

    A prompt that comes out right 9 times in 10 is as informative as one that does 1 time in 10, but there is
    nine times less left to learn from it. ``headroom`` h says how much that counts: the chance is weighed by
    (1 − p)^h. With groups of two and h = 1, the score p (1 − p)² is highest at p = 1/3.
    """

    name: ClassVar[str] = "thompson"
    draws: int = 16
    per_token: bool = False
    headroom: float = 0.0

    def __call__(self, considered: Considered, rng: np.random.Generator) -> np.ndarray:
        scores_N = drawn(considered, self.draws, rng, self.headroom).mean(axis=0)
        return scores_N / considered.tokens() if self.per_token else scores_N


@dataclass(frozen=True)
class Optimistic:
    """p_informative of the belief once a prompt has been visited ``sure_after`` times; before that the best
    of ``draws`` draws, as in optimistic Bayesian sampling (May et al., JMLR 13, 2012): what little is known
    of a prompt must not be held against it."""

    name: ClassVar[str] = "optimistic"
    sure_after: int = 3
    draws: int = 2

    def __call__(self, considered: Considered, rng: np.random.Generator) -> np.ndarray:
        best_N = drawn(considered, self.draws, rng).max(axis=0, initial=0.0)
        return np.where(considered.visits() < self.sure_after, best_N, considered.estimates.p_informative)


@dataclass(frozen=True)
class Window:
    """A uniform draw among the means in [low, high] (DEPO, arXiv 2602.06375); should these be too few, then
    the means nearest to the window."""

    name: ClassVar[str] = "window"
    low: float = 0.15
    high: float = 0.85

    def __call__(self, considered: Considered, rng: np.random.Generator) -> np.ndarray:
        mean_N = considered.estimates.mean
        outside_N = np.maximum(self.low - mean_N, mean_N - self.high)
        return np.where(outside_N <= 0, 1 + rng.random(len(mean_N)), -outside_N)


@dataclass(frozen=True)
class Threshold:
    """A uniform draw among p_informative at or above the threshold; should these be too few, then the highest
    p_informative."""

    name: ClassVar[str] = "threshold"
    p_informative: float = 0.3

    def __call__(self, considered: Considered, rng: np.random.Generator) -> np.ndarray:
        informative_N = considered.estimates.p_informative
        return np.where(
            informative_N >= self.p_informative, 1 + rng.random(len(informative_N)), informative_N
        )


@dataclass(frozen=True)
class Skip:
    """The candidates in their order, each kept with probability p_informative (GRESO, arXiv 2506.02177);
    should those kept be too few, then the highest p_informative of those skipped."""

    name: ClassVar[str] = "skip"

    def __call__(self, considered: Considered, rng: np.random.Generator) -> np.ndarray:
        informative_N = considered.estimates.p_informative
        size = len(informative_N)
        kept_N = rng.random(size) < informative_N
        return np.where(kept_N, 2 - np.arange(size) / max(size, 1), informative_N)

    def passed(self, scores_N: np.ndarray, rows_n: np.ndarray) -> int:
        """All up to the last pick, as in one of GRESO's epochs; where too few were kept, all of them."""
        enough = bool((scores_N[rows_n] > 1).all())
        return int(rows_n.max(initial=-1)) + 1 if enough else len(scores_N)


@dataclass(frozen=True)
class Gumbel:
    """Gumbel top-k on log(p_informative / expected tokens) / temperature: draws without replacement, each
    with probability ∝ (p_informative / tokens)^(1/temperature) (Kool et al., arXiv 1903.06059).

    The signal is p_informative and not E[p(1−p)]: GRPO divides by the group's standard deviation, which makes
    every informative group weigh the same (its squared advantages add up to G), and the ledger counts it as
    one.
    """

    name: ClassVar[str] = "gumbel"
    temperature: float = 0.25

    def __call__(self, considered: Considered, rng: np.random.Generator) -> np.ndarray:
        # log 0 would make all of these alike
        signal_N = np.maximum(considered.estimates.p_informative, np.finfo(np.float64).tiny)
        return np.log(signal_N / considered.tokens()) / self.temperature + rng.gumbel(size=len(signal_N))


@dataclass(frozen=True)
class Greedy:
    """The highest p_informative: DPS's choice (arXiv 2603.10887), and the one that starves most prompts."""

    name: ClassVar[str] = "greedy"

    def __call__(self, considered: Considered, rng: np.random.Generator) -> np.ndarray:
        return considered.estimates.p_informative


@dataclass(frozen=True)
class Prioritized:
    """Gumbel top-k: draws without replacement, each with probability ∝ √(p(1 − p)) + floor, p being the mean
    (SPO, arXiv 2509.13232, §3.4)."""

    name: ClassVar[str] = "prioritized"
    floor: float = 0.05

    def __call__(self, considered: Considered, rng: np.random.Generator) -> np.ndarray:
        mean_N = considered.estimates.mean
        return np.log(np.sqrt(mean_N * (1 - mean_N)) + self.floor) + rng.gumbel(size=len(mean_N))


def drawn(considered: Considered, draws: int, rng: np.random.Generator, headroom: float = 0.0) -> np.ndarray:
    """Chances of an informative group (draws, N), each under another draw p from the beliefs and weighed by
    (1 − p)^headroom."""
    rates = np.array([considered.estimates.sample(rng) for _ in range(draws)])
    return informative_probability(rates, considered.group_size) * (1 - rates) ** headroom


def top(
    scores_N: np.ndarray, n: int, rng: np.random.Generator, last_N: np.ndarray | None = None
) -> np.ndarray:
    """Indices (n,) of the highest scores, best first; equal scores in random order. Candidates marked in
    ``last_N`` (bool) come after all others, whatever their score."""
    last_N = np.zeros(len(scores_N), dtype=bool) if last_N is None else last_N
    return np.lexsort((rng.random(len(scores_N)), -scores_N, last_N))[:n]


def build_rule(name: str, options: Mapping[str, Any] | None = None) -> Rule:
    """The rule registered as ``name``, with these options.

    Raises ValueError when the name is unknown or ambiguous, when its code cannot be loaded, and when it does
    not take the options.
    """
    rule: Rule = build(GROUP, BUILT_IN, {"type": "plugin", "name": name, "options": options or {}})
    return rule
