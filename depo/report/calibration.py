"""How good predictions of outcomes are: pure functions of arrays, shared by training and by ``depo replay``.

W: graded groups, U: distinct values, B: bins. ``predicted`` is a probability, ``informative`` is 1.0 where a
group had both outcomes and 0.0 elsewhere. A figure that is undefined on its input is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

ECE_BINS = 15

STRATA: tuple[tuple[str, int, float], ...] = (("0", 0, 0), ("1", 1, 1), ("2-4", 2, 4), ("5+", 5, math.inf))
"""(label, fewest, most) visits that a prompt had had before the prediction."""


def midranks(values_W: np.ndarray) -> np.ndarray:
    """Ranks 1 … W, equal values sharing the mean of their ranks. (W,) float64."""
    _, inverse_W, counts_U = np.unique(values_W, return_inverse=True, return_counts=True)
    last_U = np.cumsum(counts_U)
    return (last_U - (counts_U - 1) / 2.0)[inverse_W]


# ---------------------------------------------------------------- order


def auroc(predicted_W: np.ndarray, informative_W: np.ndarray) -> float:
    """Probability that an informative group was predicted above one that is not, ties counting half. NaN when
    the window holds one kind only."""
    positives = int(informative_W.sum())
    negatives = len(informative_W) - positives
    if not positives or not negatives:
        return math.nan
    rank_sum = float(midranks(predicted_W)[informative_W.astype(bool)].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def average_precision(predicted_W: np.ndarray, informative_W: np.ndarray) -> float:
    """Σ (R_j − R_{j−1}) P_j over the distinct predictions from high to low: precision at each threshold,
    weighted by the recall it adds; no interpolation. NaN when no group is informative."""
    positives = float(informative_W.sum())
    if not positives:
        return math.nan
    order_W = np.argsort(-predicted_W, kind="stable")
    falling_W, hits_W = predicted_W[order_W], np.cumsum(informative_W[order_W], dtype=np.float64)
    last_U = np.flatnonzero(np.append(np.diff(falling_W) != 0, True))  # equal predictions enter together
    precision_U = hits_W[last_U] / (last_U + 1)
    return float((np.diff(hits_W[last_U], prepend=0.0) * precision_U).sum() / positives)


def spearman(first_W: np.ndarray, second_W: np.ndarray) -> float:
    """Spearman's rank correlation: Pearson's of the midranks. NaN when either is constant."""
    if not len(first_W):
        return math.nan
    ranks_W, others_W = midranks(first_W), midranks(second_W)
    ranks_W, others_W = ranks_W - ranks_W.mean(), others_W - others_W.mean()
    scale = math.sqrt(float(ranks_W @ ranks_W) * float(others_W @ others_W))
    return float(ranks_W @ others_W) / scale if scale > 0 else math.nan


# ---------------------------------------------------------------- probabilities


def brier(predicted_W: np.ndarray, informative_W: np.ndarray) -> float:
    """Mean squared error of the predicted probabilities. NaN for an empty window."""
    return float(np.mean((predicted_W - informative_W) ** 2)) if len(informative_W) else math.nan


def brier_skill(predicted_W: np.ndarray, informative_W: np.ndarray) -> float:
    """1 − Brier / Brier of the window's base rate. NaN when the window holds one kind only."""
    base = float(np.mean(informative_W)) if len(informative_W) else math.nan
    reference = base * (1 - base)
    return 1 - brier(predicted_W, informative_W) / reference if reference > 0 else math.nan


def rate_skill(predicted_W: np.ndarray, rate_W: np.ndarray) -> float:
    """1 − mean squared error of predicted pass rates / that of their mean. NaN where all rates are alike."""
    reference = float(rate_W.var()) if len(rate_W) else 0.0
    return 1 - float(np.mean((predicted_W - rate_W) ** 2)) / reference if reference > 0 else math.nan


def mass_bins(predicted_W: np.ndarray, bins: int) -> np.ndarray:
    """The bin 0 … bins − 1 of each prediction (W,): bins of equal mass by midrank, so that equal predictions
    share a bin (and bins may stay empty)."""
    return ((midranks(predicted_W) - 0.5) / len(predicted_W) * bins).astype(int)


def expected_calibration_error(
    predicted_W: np.ndarray, informative_W: np.ndarray, bins: int = ECE_BINS
) -> float:
    """Mean over groups of |mean prediction − informative share| in its bin (``mass_bins``). NaN for an empty
    window."""
    if not len(informative_W):
        return math.nan
    gap_B = np.bincount(mass_bins(predicted_W, bins), weights=predicted_W - informative_W, minlength=bins)
    return float(np.abs(gap_B).sum() / len(informative_W))


def reliability(
    predicted_W: np.ndarray, informative_W: np.ndarray, bins: int = ECE_BINS
) -> list[dict[str, float]]:
    """One row a bin of ``mass_bins`` that is not empty, lowest first: ``groups`` in it, mean ``predicted``
    probability, ``observed`` share of informative groups."""
    if not len(informative_W):
        return []
    bin_W = mass_bins(predicted_W, bins)
    count_B = np.bincount(bin_W, minlength=bins)
    predicted_B = np.bincount(bin_W, weights=predicted_W, minlength=bins)
    observed_B = np.bincount(bin_W, weights=informative_W, minlength=bins)
    return [
        {
            "groups": int(count_B[b]),
            "predicted": float(predicted_B[b] / count_B[b]),
            "observed": float(observed_B[b] / count_B[b]),
        }
        for b in np.flatnonzero(count_B)
    ]


def false_reject_rate(predicted_W: np.ndarray, informative_W: np.ndarray, threshold: float = 0.5) -> float:
    """Share of the informative groups whose predicted probability was below ``threshold``. NaN when no group
    is informative."""
    informative_W = informative_W.astype(bool)
    return float(np.mean(predicted_W[informative_W] < threshold)) if informative_W.any() else math.nan


# ---------------------------------------------------------------- strata


def by_visits(visits_W: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(label, members (W,) bool) of each stratum of ``STRATA``. A number of visits that is negative is
    unknown and belongs to none."""
    for label, fewest, most in STRATA:
        yield label, (visits_W >= fewest) & (visits_W <= most)
