"""Percentile bootstrap over problems: the problems are the sample, the n completions of each come along.

Intervals therefore cover the choice of problems and, through it, the draw of completions. Figures of one
benchmark share their resamples, so that differences between models and measures are paired by problem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from depo.rng import generator

LEVEL = 0.95


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


def estimate(values_N: np.ndarray, weights_RN: np.ndarray) -> list[float | None]:
    """[mean, low, high] over problems, NaN ones left out; Nones when all are."""
    known_N = values_N[~np.isnan(values_N)]
    if not len(known_N):
        return [None, None, None]
    return [float(known_N.mean()), *limits(weighted_means(values_N, weights_RN))]


def limits(means_R: np.ndarray) -> list[float | None]:
    """[low, high], the 95 % percentile interval of the resamples that define the figure."""
    defined = means_R[np.isfinite(means_R)]
    if not len(defined):
        return [None, None]
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(defined, (tail, 100 - tail))
    return [float(low), float(high)]


def macro(values: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> list[float | None]:
    """[mean, low, high] of the plain mean over benchmarks, each resampled on its own; Nones when one of them
    is unknown throughout."""
    if any(np.isnan(values_N).all() for values_N in values):
        return [None, None, None]
    middle = float(np.mean([np.nanmean(values_N) for values_N in values]))
    means_R = np.mean([weighted_means(v, w) for v, w in zip(values, weights, strict=True)], axis=0)
    return [middle, *limits(means_R)]


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
