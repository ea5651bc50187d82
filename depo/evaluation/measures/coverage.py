"""Coverage (pass@k over problems) as a function of k, and its extrapolation.

Brown et al. 2024, "Large Language Monkeys" (arXiv 2407.21787): over orders of magnitude the logarithm of
coverage follows a power law in the number of samples,

    log c(k) = −a k^(−b),   so   c(k) = exp(−a k^(−b)),   a, b > 0.

a is the negative log of coverage at one sample; b is how fast more samples help. Fitted by least squares on c
itself at k spaced evenly on a log scale, from a straight line through log(−log c) against log k. The error of
an extrapolation is the bootstrap over problems: the fit is repeated on each resample. It does not cover the
possibility that the law itself fails, as it does where some problems cannot be solved at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from depo.evaluation.measures.intervals import estimate, limits, weighted_means
from depo.evaluation.measures.pass_at_k import pass_at_k_each

FEWEST_POINTS = 3
FITS = 200
"""Resamples on which the fit is repeated, at most."""
SMALLEST = 1e-12


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
    laws = [law(k_K, means_KR[:, r]) for r in range(min(FITS, means_KR.shape[1]))]
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
