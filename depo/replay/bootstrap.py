"""Intervals by cluster bootstrap: prompts are drawn with replacement, each with all of its visits.

The visits of one prompt are not independent, so drawing them one by one would flatter the interval. The same
draws serve every estimator, which makes differences between estimators *paired* by prompt.
R: resamples, N: prompts, M: predictions.
"""

from __future__ import annotations

import math

import numpy as np

from depo.rng import generator

RESAMPLES = 1000
CELLS = 2_000_000  # of the largest temporary array: 16 MB in float64


def resample_weights(prompts: int, resamples: int, seed: int) -> np.ndarray:
    """How often each prompt is drawn in each resample, (R, N): multinomial with equal probabilities."""
    rng = generator(seed, "replay bootstrap")
    return rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(np.float32)


def weighted_mean(values_M: np.ndarray, prompt_M: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """(R,) means of ``values_M`` over each resample; NaN for a resample without any prediction."""
    sum_N = np.bincount(prompt_M, weights=values_M, minlength=weights_RN.shape[1])
    count_N = np.bincount(prompt_M, minlength=weights_RN.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights_RN @ sum_N) / (weights_RN @ count_N)


def weighted_ranking(
    scores_M: np.ndarray, positive_M: np.ndarray, prompt_M: np.ndarray, weights_RN: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(AUROC, average precision), each (R,), over each resample; NaN where they are undefined.

    Both as ``depo.estimator_metrics`` defines them, every prediction counting as often as its prompt was
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


def interval(values_R: np.ndarray) -> list[float] | None:
    """The 95 % percentile interval of the resamples that define the figure; None when none does."""
    defined = values_R[np.isfinite(values_R)]
    return [float(value) for value in np.percentile(defined, (2.5, 97.5))] if len(defined) else None
