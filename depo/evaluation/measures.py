"""Figures of repeated sampling as pure functions of arrays: no files, no models.

Letters in array names: N problems, R resamples of the bootstrap, K values of k.

pass@k
------

The probability that at least one of k samples is right, without bias from n ≥ k of them.
Chen et al. 2021, "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374), eq. 1:

    pass@k = 1 − C(n − c, k) / C(n, k) = 1 − Π_{i = n − c + 1}^{n} (1 − k / i)

with c right samples of n. The product form has no large binomial in it and stays exact for large n.

maj@k
-----

Is the most frequent answer among k samples right? Self-consistency: Wang et al. 2022, arXiv 2203.11171.

How it differs from voting once over the first k samples:
- all C(n, k) subsets of the n samples count, so the figure does not depend on the samples' order;
- a tie of j answers for the most votes counts 1/j when the right one is among them: the expectation over
  breaking it at random;
- a sample without an answer abstains; when all k abstain the vote is wrong.

The expectation is exact up to `EXACT` samples. Drawing k of n without replacement is the same as putting each
sample in with probability p independently, given that k went in; so with V_j ~ Binomial(m_j, p) votes for
class j of m_j samples,

    maj@k = Σ_t Σ_J P(V_right = t, others ≤ t, J others = t, Σ V = k) / (1 + J) / P(Σ V = k).

The sum over the other classes is a product of polynomials in two variables (votes, ties). With p = k/n
nothing underflows. Beyond `EXACT` samples a keyed Monte Carlo takes its place.

Coverage
--------

pass@k over problems as a function of k, and its extrapolation.
Brown et al. 2024, "Large Language Monkeys" (arXiv 2407.21787): over orders of magnitude the logarithm of
coverage follows a power law in the number of samples,

    log c(k) = −a k^(−b),   so   c(k) = exp(−a k^(−b)),   a, b > 0.

a is the negative log of coverage at one sample; b is how fast more samples help. Fitted by least squares on c
itself at k spaced evenly on a log scale, from a straight line through log(−log c) against log k. The error of
an extrapolation is the bootstrap over problems: the fit is repeated on each resample. It does not cover the
possibility that the law itself fails, as it does where some problems cannot be solved at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import least_squares

from depo.report.statistics import estimate, limits, weighted_means
from depo.rng import generator


def share(part_N: np.ndarray, whole_N: np.ndarray) -> np.ndarray:
    """part / whole (N,), NaN where the whole is nothing."""
    with np.errstate(invalid="ignore"):
        return np.where(whole_N > 0, part_N / np.maximum(whole_N, 1), np.nan)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """pass@k of one problem. NaN when k > n: fewer samples than k say nothing about it without a model."""
    if not 0 <= correct <= n or k < 1:
        raise ValueError(f"need 0 <= correct <= n and k >= 1, found n {n}, correct {correct}, k {k}")
    if k > n:
        return float("nan")
    if n - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - correct + 1, n + 1)))


def pass_at_k_each(n_N: np.ndarray, correct_N: np.ndarray, k: int) -> np.ndarray:
    """pass@k of N problems, float64 (N,); NaN where a problem has fewer than k samples."""
    pairs, place_N = np.unique(np.stack([n_N, correct_N]), axis=1, return_inverse=True)
    values = np.array([pass_at_k(int(n), int(c), k) for n, c in pairs.T])
    return values[place_N.reshape(-1)]


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
    if k == n:  # all samples vote
        return 0.0 if right < max(sizes, default=0) else 1.0 / (1 + sizes.count(right))
    return exact(right, sizes, abstain, k) if n <= EXACT else drawn(right, sizes, abstain, k, seed, key)


def method(n: int) -> str:
    """How maj@k for k < n comes about for a problem of n samples."""
    return "exact" if n <= EXACT else f"Monte Carlo, {DRAWS} subsets"


@lru_cache(maxsize=65_536)  # problems share their counts
def exact(right: int, wrong: tuple[int, ...], abstain: int, k: int) -> float:
    """The expectation over all subsets of size k < n."""
    from scipy.stats import binom  # a second to import, and most runs take no votes

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
    from scipy.stats import binom

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


FEWEST_POINTS = 3
SMALLEST = 1e-12
"""Coverage is fitted where it lies so far inside of (0, 1), at so many k or more."""

FITS = 200
"""Resamples on which the fit is repeated, at most."""


@dataclass(frozen=True, slots=True)
class Fit:
    """c(k) = exp(−a k^(−b)); ``rmse`` is the root mean squared error over the fitted points."""

    a: float
    b: float
    rmse: float

    def __call__(self, k: float | np.ndarray) -> float | np.ndarray:
        return np.exp(-self.a * np.asarray(k, dtype=np.float64) ** -self.b)


def log_spaced(n: int, points: int = 24) -> np.ndarray:
    """Distinct whole k from 1 to n, evenly spaced on a log scale: int64 (K,)."""
    return np.unique(np.round(np.geomspace(1, n, points)).astype(np.int64))


def fit_power_law(k_K: np.ndarray, coverage_K: np.ndarray) -> Fit | None:
    """The exponentiated power law through (k, coverage); None where fewer than 3 points lie inside (0, 1)."""
    inside_K = (coverage_K > SMALLEST) & (coverage_K < 1 - SMALLEST)
    if inside_K.sum() < FEWEST_POINTS:
        return None
    log_k, cover = np.log(k_K[inside_K].astype(np.float64)), coverage_K[inside_K]
    slope, intercept = np.polyfit(log_k, np.log(-np.log(cover)), 1)

    def residuals(logs: np.ndarray) -> np.ndarray:
        return np.exp(-np.exp(logs[0] - np.exp(logs[1]) * log_k)) - cover

    start = [intercept, np.log(max(-slope, 1e-3))]
    found = least_squares(residuals, start, method="lm", max_nfev=200)
    a, b = np.exp(found.x)
    return Fit(float(a), float(b), float(np.sqrt(np.mean(found.fun**2))))


@dataclass(frozen=True, slots=True)
class Coverage:
    """``curve``: [k, coverage, low, high] for k up to n; ``fit`` and ``extrapolated`` ([k, c, low, high]) are
    empty where no law can be fitted, and ``why_not`` says why."""

    curve: list[list[float | None]]
    fit: Fit | None
    extrapolated: list[list[float | None]]
    why_not: str = ""


def coverage(n_N: np.ndarray, correct_N: np.ndarray, beyond: list[int], weights_RN: np.ndarray) -> Coverage:
    """The curve up to the fewest samples that a problem has, with its fit. ``weights_RN`` as
    ``intervals.resample_weights`` gives them."""
    k_K = log_spaced(int(n_N.min()))
    values_KN = np.array([pass_at_k_each(n_N, correct_N, int(k)) for k in k_K])
    means_KR = np.array([weighted_means(values_N, weights_RN) for values_N in values_KN])
    middle_K = values_KN.mean(axis=1)
    curve: list[list[float | None]] = [
        [int(k), *estimate(values_N, weights_RN)] for k, values_N in zip(k_K, values_KN, strict=True)
    ]
    fit = fit_power_law(k_K, middle_K)
    if fit is None:
        return Coverage(curve, None, [], why_not(k_K, middle_K))
    laws = [law(k_K, means_KR[:, r]) for r in range(min(FITS, means_KR.shape[1]) if beyond else 0)]
    extrapolated: list[list[float | None]] = []
    for k in beyond:
        values_R = np.array([one(k) for one in laws])
        extrapolated.append([k, float(fit(k)), *limits(values_R)])
    return Coverage(curve, fit, extrapolated)


def law(k_K: np.ndarray, coverage_K: np.ndarray) -> Callable[[float], float]:
    """The fitted law of one resample; where there is none, its last coverage: a resample without any solved
    problem promises nothing, and leaving it out would flatter the interval."""
    found = fit_power_law(k_K, coverage_K)
    if found is not None:
        return lambda k: float(found(k))
    return lambda k: float(coverage_K[-1])


def why_not(k_K: np.ndarray, coverage_K: np.ndarray) -> str:
    if len(k_K) < FEWEST_POINTS:
        return (
            f"needs coverage at {FEWEST_POINTS} values of k or more, there are {len(k_K)}: raise sampling.n"
        )
    if (coverage_K <= SMALLEST).all():
        return "no problem was solved"
    return "coverage is 1 at most k"
