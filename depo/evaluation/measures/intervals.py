"""Percentile bootstrap over problems: the problems are the sample, the n completions of each come along.

Intervals therefore cover the choice of problems and, through it, the draw of completions. Figures of one
benchmark share their resamples, so that differences between models and measures are paired by problem.

Where every problem has the same value v, every resample has it too, and the bootstrap says "± 0" of five
problems. There the interval is Clopper and Pearson's (1934, Biometrika 26, 404): had a share above

    q = 1 − (α/2)^(1/N)

of all problems another value than v, N problems would all have had it with probability below α/2. A value
lies in [a, b], so the mean lies between (1 − q) v + q a and (1 − q) v + q b; for 0 of N right that is [0, q],
0.522 for N = 5. (The "rule of three", 3/N, is its one-sided cousin for large N: Hanley and Lippman-Hand 1983,
JAMA 249, 1743.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from depo.rng import generator

LEVEL = 0.95
Bounds = tuple[float, float]
SHARE: Bounds = (0.0, 1.0)
"""What an accuracy or any other share can be, for one problem."""
DIFFERENCE: Bounds = (-1.0, 1.0)


def resample_weights(problems: int, resamples: int, seed: int, benchmark: str) -> np.ndarray:
    """How often each problem is drawn in each resample: (R, N) float32, keyed by seed and benchmark."""
    rng = generator(seed, "eval bootstrap", key=benchmark)
    return rng.multinomial(problems, np.full(problems, 1 / problems), size=resamples).astype(np.float32)


def weighted_means(values_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """Mean of each resample (R,) over the problems whose value is known; NaN where it drew none of them."""
    known_N = ~np.isnan(values_N)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights_RN[:, known_N].astype(np.float64) @ values_N[known_N]) / weights_RN[:, known_N].sum(
            axis=1
        )


def estimate(
    values_N: np.ndarray, weights_RN: np.ndarray, bounds: Bounds | None = SHARE
) -> list[float | None]:
    """[mean, low, high] over problems, NaN ones left out; Nones when all are. ``bounds`` is what a value
    can be, None for values without: then the interval of equal values has no width."""
    known_N = values_N[~np.isnan(values_N)]
    if not len(known_N):
        return [None, None, None]
    if bounds is not None and all_alike(values_N):
        return [float(known_N[0]), *limits_of_equals(float(known_N[0]), len(known_N), bounds)]
    return [float(known_N.mean()), *limits(weighted_means(values_N, weights_RN))]


def all_alike(values_N: np.ndarray) -> bool:
    """Whether all known values are the same, so that resampling them tells nothing."""
    known_N = values_N[~np.isnan(values_N)]
    return len(known_N) > 0 and bool((known_N == known_N[0]).all())


def limits_of_equals(value: float, problems: int, bounds: Bounds) -> tuple[float, float]:
    """[low, high] of a mean over problems of which ``problems`` were seen, all with this value."""
    other = 1 - ((1 - LEVEL) / 2) ** (1 / problems)
    low, high = bounds
    return value - other * (value - low), value + other * (high - value)


def limits(means_R: np.ndarray) -> list[float | None]:
    """[low, high], the 95 % percentile interval of the resamples that define the figure."""
    defined = means_R[np.isfinite(means_R)]
    if not len(defined):
        return [None, None]
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(defined, (tail, 100 - tail))
    return [float(low), float(high)]


def macro(
    values: Sequence[np.ndarray], weights: Sequence[np.ndarray], bounds: Bounds = SHARE
) -> list[float | None]:
    """[mean, low, high] of the plain mean over benchmarks, each resampled on its own; Nones when one of them
    is unknown throughout. Where the values of one are all alike, `with_equals`."""
    if any(np.isnan(values_N).all() for values_N in values):
        return [None, None, None]
    middle = float(np.mean([np.nanmean(values_N) for values_N in values]))
    means_R = np.mean([weighted_means(v, w) for v, w in zip(values, weights, strict=True)], axis=0)
    alike = []
    for values_N in values:
        if all_alike(values_N):
            known_N = values_N[~np.isnan(values_N)]
            value = float(known_N[0])
            lower, upper = limits_of_equals(value, len(known_N), bounds)
            alike.append((value - lower, upper - value))
    return with_equals([middle, *limits(means_R)], alike, len(values))


def with_equals(
    figure: Sequence[float | None], alike: Sequence[tuple[float, float]], benchmarks: int
) -> list[float | None]:
    """[mean, low, high] of a mean over ``benchmarks``, widened by those whose resamples do not vary because
    their values are ``alike``: the distances of each to its own limits, below and above.

    They are added to the bootstrap's as independent errors add, squared: MOVER (Zou and Donner 2008,
    Statistics in Medicine 27, 1693).
    """
    middle, low, high = figure
    if not alike or middle is None or low is None or high is None:
        return [middle, low, high]
    below = [middle - low, *(distance / benchmarks for distance, _ in alike)]
    above = [high - middle, *(distance / benchmarks for _, distance in alike)]
    return [middle, middle - math.hypot(*below), middle + math.hypot(*above)]


def paired(
    first: Mapping[str, float], second: Mapping[str, float], resamples: int, seed: int, benchmark: str
) -> tuple[np.ndarray, np.ndarray]:
    """Differences first − second by problem (N,), and the resamples (R, N), over the problems both have."""
    shared = sorted(
        key for key in first.keys() & second.keys() if not np.isnan(first[key]) and not np.isnan(second[key])
    )
    differences_N = np.array([first[key] - second[key] for key in shared])
    if not shared:
        return differences_N, np.zeros((resamples, 0), dtype=np.float32)
    return differences_N, resample_weights(len(shared), resamples, seed, benchmark)
