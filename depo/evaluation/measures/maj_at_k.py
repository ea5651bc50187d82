r"""maj@k: is the most frequent answer among k samples right?

Self-consistency: Wang et al. 2022, arXiv 2203.11171.

How it differs from voting once over the first k samples:
- all \binom{n}{k} subsets of the n samples count, so the figure does not depend on the samples' order;
- a tie of j answers for the most votes counts 1/j when the right one is among them: the expectation over
  breaking it at random;
- a sample without an answer abstains; when all k abstain the vote is wrong.

The expectation is exact up to `EXACT` samples. Drawing k of n without replacement is the same as putting each
sample in with probability p independently, given that k went in; so with V_j ~ Binomial(m_j, p) votes for
class j of m_j samples,

    maj@k = Σ_t Σ_J P(V_right = t, others ≤ t, J others = t, Σ V = k) / (1 + J) / P(Σ V = k).

The sum over the other classes is a product of polynomials in two variables (votes, ties). With p = k/n
nothing underflows. Beyond `EXACT` samples a keyed Monte Carlo takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.stats import binom

from depo.rng import generator

EXACT = 64
"""Most samples of a problem for which all subsets are counted."""
DRAWS = 4096
"""Random subsets beyond; the standard error is below 0.008."""


def maj_at_k(right: int, wrong: Sequence[int], abstain: int, k: int, seed: int = 0, key: str = "") -> float:
    """maj@k of one problem: ``right`` samples in the right class, ``wrong`` the sizes of the other classes,
    ``abstain`` samples without an answer. NaN when k exceeds their sum.

    ``seed`` and ``key`` (the problem) name the random draws where there are any.
    """
    n = right + sum(wrong) + abstain
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}")
    if k > n:
        return float("nan")
    if right == 0:
        return 0.0
    sizes = tuple(sorted((size for size in wrong if size), reverse=True))
    if k == n:
        return full_vote(right, sizes)
    return exact(right, sizes, abstain, k) if n <= EXACT else drawn(right, sizes, abstain, k, seed, key)


def method(n: int) -> str:
    """How maj@k for k < n comes about for a problem of n samples."""
    return "exact" if n <= EXACT else f"Monte Carlo, {DRAWS} subsets"


def full_vote(right: int, wrong: Sequence[int]) -> float:
    """All samples vote."""
    most = max(wrong, default=0)
    if right < most:
        return 0.0
    return 1.0 / (1 + sum(size == right for size in wrong))


@lru_cache(maxsize=65_536)  # problems share their counts
def exact(right: int, wrong: tuple[int, ...], abstain: int, k: int) -> float:
    """The expectation over all subsets of size k < n."""
    n = right + sum(wrong) + abstain
    p = k / n
    total = 0.0
    for t in range(1, min(right, k) + 1):
        # Classes that cannot reach t votes need no watching: together they are one binomial.
        free = abstain + sum(size for size in wrong if size < t)
        rivals = [size for size in wrong if size >= t]
        total += float(binom.pmf(t, right, p)) * others(rivals, free, k - t, t, p)
    return total / float(binom.pmf(k, n, p))


def others(rivals: Sequence[int], free: int, votes: int, t: int, p: float) -> float:
    """E[1 / (1 + J); all rivals have ≤ t votes, the rest fill up to ``votes``]; J rivals have exactly t."""
    ways_JV = np.zeros((1 + len(rivals), votes + 1))  # (ties J, votes so far V)
    ways_JV[0] = binom.pmf(np.arange(votes + 1), free, p)
    for size in rivals:
        pmf = binom.pmf(np.arange(t + 1), size, p)
        grown_JV = np.zeros_like(ways_JV)
        for x in range(min(t, votes + 1)):
            grown_JV[:, x:] += pmf[x] * ways_JV[:, : votes + 1 - x]
        if t <= votes:
            grown_JV[1:, t:] += pmf[t] * ways_JV[:-1, : votes + 1 - t]
        ways_JV = grown_JV
    return float((ways_JV[:, votes] / (1 + np.arange(len(ways_JV)))).sum())


def drawn(right: int, wrong: Sequence[int], abstain: int, k: int, seed: int, key: str) -> float:
    """The mean over `DRAWS` random subsets, keyed by the problem and k."""
    rng = generator(seed, "maj@k", k, key)
    votes_DC = rng.multivariate_hypergeometric([right, *wrong, abstain], k, size=DRAWS)[:, :-1]
    most_D = votes_DC.max(axis=1)
    tied_D = (votes_DC == most_D[:, None]).sum(axis=1)
    wins_D = (votes_DC[:, 0] == most_D) & (most_D > 0)
    return float((wins_D / tied_D).mean())
