"""Intervals, all of 95 %: closed forms for rates, means and ratios, and two percentile bootstraps.

R: resamples, N: problems or prompts, M: predictions, S: seeds or repeats.

*Bootstrap over problems* (evaluation): the problems are the sample, the n completions of each come along. So
an interval covers the choice of problems and, through it, the draw of completions. Figures of one benchmark
share their resamples: differences between models and measures are paired by problem.

*Equal values.* Where every problem has the same value v, every resample has it too, and the bootstrap says
"± 0" of five problems. There the interval is Clopper and Pearson's (1934, Biometrika 26, 404). If a share
above

    q = 1 − (α/2)^(1/N)

of all problems had another value than v, N problems would all have v with probability below α/2. A value lies
in [a, b], so the mean lies between (1 − q) v + q a and (1 − q) v + q b; for 0 of N right that is [0, q],
0.522 for N = 5. (The "rule of three", 3/N, is its one-sided cousin for large N: Hanley and Lippman-Hand 1983,
JAMA 249, 1743.)

*Cluster bootstrap over prompts* (replay): the visits of one prompt are not independent, and drawing them one
by one would flatter the interval. So prompts are drawn, each with all of its visits. The same draws serve
every estimator: differences between estimators are paired by prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from depo.rng import generator

LEVEL = 0.95

TAIL = 100 * (1 - LEVEL) / 2
"""Percent outside of the interval on either side: 2.5 but for rounding."""

Bounds = tuple[float, float]

SHARE: Bounds = (0.0, 1.0)
"""What an accuracy or any other share can be, for one problem."""

DIFFERENCE: Bounds = (-1.0, 1.0)


# ---------------------------------------------------------------- closed forms


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence limits; the limits are NaN with fewer than two values."""

    mean: float
    low: float
    high: float

    def to_json(self) -> list[float | None]:
        return [value if math.isfinite(value) else None for value in (self.mean, self.low, self.high)]


def wilson_interval(successes: int, trials: int, confidence: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a binomial proportion (Wilson 1927); ``trials`` must be positive."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, spread = successes / trials, z * z / trials
    centre = (rate + spread / 2) / (1 + spread)
    half = z * math.sqrt(rate * (1 - rate) / trials + spread / (4 * trials)) / (1 + spread)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def t_interval(values: Sequence[float]) -> Interval:
    """Student's t interval of the mean of independent values, e.g. one difference a seed."""
    from scipy import stats  # a second to import, which selection would have to wait for

    values_S = np.asarray(values, dtype=float)
    mean = float(values_S.mean())
    if len(values_S) < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(values_S) - 1) * stats.sem(values_S))
    return Interval(mean, mean - half, mean + half)


def ratio_interval(ratios: Sequence[float]) -> Interval:
    """Geometric mean of positive ratios, with the t interval of their logarithms."""
    logs = t_interval(np.log(np.asarray(ratios, dtype=float)).tolist())
    return Interval(math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high))


# ---------------------------------------------------------------- equal values


def all_alike(values_N: np.ndarray) -> bool:
    """Whether all known values are the same, so that resampling them tells nothing."""
    known_N = values_N[~np.isnan(values_N)]
    return len(known_N) > 0 and bool((known_N == known_N[0]).all())


def limits_of_equals(value: float, problems: int, bounds: Bounds) -> tuple[float, float]:
    """[low, high] of a mean over problems of which ``problems`` were seen, all with this value."""
    other = 1 - ((1 - LEVEL) / 2) ** (1 / problems)
    low, high = bounds
    return value - other * (value - low), value + other * (high - value)


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


# ---------------------------------------------------------------- resamples


def draw_weights(rng: np.random.Generator, size: int, resamples: int) -> np.ndarray:
    """How often each of ``size`` is drawn in each resample, (R, N) float32."""
    return rng.multinomial(size, np.full(size, 1 / size), size=resamples).astype(np.float32)


def resample_weights(problems: int, resamples: int, seed: int, benchmark: str) -> np.ndarray:
    """Weights (R, N) of a benchmark's problems, keyed by seed and benchmark."""
    return draw_weights(generator(seed, "eval bootstrap", key=benchmark), problems, resamples)


def resample_prompts(prompts: int, resamples: int, seed: int) -> np.ndarray:
    """Weights (R, N) of a trace's prompts, keyed by seed."""
    return draw_weights(generator(seed, "replay bootstrap"), prompts, resamples)


def limits(values_R: np.ndarray, tail: float = TAIL) -> list[float | None]:
    """[low, high], the percentile interval of the resamples that define the figure; Nones when none does."""
    defined = values_R[np.isfinite(values_R)]
    if not len(defined):
        return [None, None]
    low, high = np.percentile(defined, (tail, 100 - tail))
    return [float(low), float(high)]


# ---------------------------------------------------------------- bootstrap over problems


def weighted_means(values_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """Mean of each resample (R,) over the problems whose value is known; NaN where it drew none of them."""
    known_N = ~np.isnan(values_N)
    weights_RK = weights_RN[:, known_N]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights_RK.astype(np.float64) @ values_N[known_N]) / weights_RK.sum(axis=1)


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


# ---------------------------------------------------------------- cluster bootstrap over prompts


CELLS = 2_000_000  # of the largest temporary array: 16 MB in float64


def clustered_means(values_M: np.ndarray, prompt_M: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """(R,) means of ``values_M`` over each resample; NaN for a resample without any prediction."""
    sum_N = np.bincount(prompt_M, weights=values_M, minlength=weights_RN.shape[1])
    count_N = np.bincount(prompt_M, minlength=weights_RN.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights_RN @ sum_N) / (weights_RN @ count_N)


def clustered_ranking(
    scores_M: np.ndarray, positive_M: np.ndarray, prompt_M: np.ndarray, weights_RN: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(AUROC, average precision), each (R,), over each resample; NaN where they are undefined.

    Both as ``depo.report.calibration`` defines them, every prediction counting as often as its prompt was
    drawn: AUROC's pairs count half where scores tie, tied scores enter average precision together.
    """
    order_M = np.argsort(scores_M, kind="stable")
    rising_M, positive_M, prompt_M = scores_M[order_M], positive_M[order_M].astype(bool), prompt_M[order_M]
    hit = np.flatnonzero(positive_M)
    below = np.searchsorted(rising_M, rising_M[hit], side="left")  # where each positive's ties begin and end
    through = np.searchsorted(rising_M, rising_M[hit], side="right")
    auroc_R, precision_R = np.full(len(weights_RN), math.nan), np.full(len(weights_RN), math.nan)
    chunk = max(1, CELLS // max(len(scores_M), 1))
    for start in range(0, len(weights_RN), chunk):
        part = slice(start, start + chunk)
        weight_RM = weights_RN[part][:, prompt_M].astype(np.float64)
        hit_weight_RH = weight_RM[:, hit]
        negatives_RM = leading_zero(np.cumsum(np.where(positive_M, 0.0, weight_RM), axis=1))
        drawn_RM = leading_zero(np.cumsum(weight_RM, axis=1))
        negatives_below_RH = negatives_RM[:, below]
        pairs_R = (hit_weight_RH * (negatives_below_RH + negatives_RM[:, through])).sum(axis=1) / 2
        positives_R, negatives_R = hit_weight_RH.sum(axis=1), negatives_RM[:, -1]
        # Precision at a positive's own score: of all that score at least as high, the share that is positive.
        above_RH = drawn_RM[:, -1:] - drawn_RM[:, below]
        above_negative_RH = negatives_R[:, None] - negatives_below_RH
        with np.errstate(invalid="ignore", divide="ignore"):
            auroc_R[part] = pairs_R / (positives_R * negatives_R)
            share_RH = np.where(hit_weight_RH > 0, 1 - above_negative_RH / above_RH, 0.0)
            precision_R[part] = (hit_weight_RH * share_RH).sum(axis=1) / positives_R
    return auroc_R, precision_R


def leading_zero(values_RM: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((len(values_RM), 1)), values_RM], axis=1)
