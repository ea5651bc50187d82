"""The figures of full feedback, with intervals, and how estimators differ.

M: predictions, N: prompts, R: resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from depo.replay.full import Predictions
from depo.report.calibration import (
    auroc,
    average_precision,
    brier,
    brier_skill,
    by_visits,
    expected_calibration_error,
    false_reject_rate,
    reliability,
    spearman,
)
from depo.report.statistics import clustered_means, clustered_ranking, limits


@dataclass(frozen=True)
class Quality:
    """``figures`` is JSON but for NaN; differences are made of the resampled ``auroc_R`` and ``brier_R``."""

    figures: dict[str, Any]
    auroc_R: np.ndarray
    brier_R: np.ndarray


def full_quality(predictions: Predictions, weights_RN: np.ndarray) -> Quality:
    """Everything that is said about one estimator's predictions; NaN where a figure is undefined.

    ``auroc`` is that of zero variance: does ``p_informative`` tell informative groups from the others.
    Figures that have a bootstrap interval have it under ``intervals``. ECE has none: drawing prompts twice
    makes bins lumpier than they are, which biases it upwards.
    """
    one, cluster_M = predictions, predictions.prompt_M
    informative_M, rate_M = one.was_mixed_M, one.successes_M / np.maximum(one.trials_M, 1)
    base = float(informative_M.mean()) if len(informative_M) else math.nan
    auroc_R, precision_R = clustered_ranking(one.informative_M, informative_M, cluster_M, weights_RN)
    wrong_R, _ = clustered_ranking(one.all_wrong_M, one.was_all_wrong_M, cluster_M, weights_RN)
    right_R, _ = clustered_ranking(one.all_right_M, one.was_all_right_M, cluster_M, weights_RN)
    brier_R = clustered_means((one.informative_M - informative_M) ** 2, cluster_M, weights_RN)
    base_R = clustered_means(informative_M, cluster_M, weights_RN)
    with np.errstate(invalid="ignore", divide="ignore"):
        skill_R = 1 - brier_R / (base_R * (1 - base_R))
    figures = {
        "predictions": len(informative_M),
        "base_rate": base,
        "auroc": auroc(one.informative_M, informative_M),
        "auroc_all_wrong": auroc(one.all_wrong_M, one.was_all_wrong_M),
        "auroc_all_right": auroc(one.all_right_M, one.was_all_right_M),
        "average_precision": average_precision(one.informative_M, informative_M),
        "brier": brier(one.informative_M, informative_M),
        "brier_skill": brier_skill(one.informative_M, informative_M),
        "ece": expected_calibration_error(one.informative_M, informative_M),
        "spearman": spearman(one.mean_M, rate_M),
        "false_reject_rate": false_reject_rate(one.informative_M, informative_M),
        "intervals": {
            "auroc": interval(auroc_R),
            "auroc_all_wrong": interval(wrong_R),
            "auroc_all_right": interval(right_R),
            "average_precision": interval(precision_R),
            "brier": interval(brier_R),
            "brier_skill": interval(skill_R),
        },
        "by_visits": strata(one),
        "reliability": reliability(one.informative_M, informative_M),
    }
    return Quality(figures, auroc_R, brier_R)


def interval(values_R: np.ndarray) -> list[float] | None:
    """The 95 % percentile interval of a resampled figure; None where no resample defines it."""
    low, high = limits(values_R, 2.5)
    return None if low is None or high is None else [low, high]


def strata(predictions: Predictions) -> dict[str, dict[str, float]]:
    """The main figures by how often the prompt had been observed before; empty strata left out."""
    found = {}
    for label, member_M in by_visits(predictions.visits_M):
        if member_M.any():
            part = predictions.of(member_M)
            informative_M = part.was_mixed_M
            found[label] = {
                "predictions": int(member_M.sum()),
                "auroc": auroc(part.informative_M, informative_M),
                "auroc_all_wrong": auroc(part.all_wrong_M, part.was_all_wrong_M),
                "auroc_all_right": auroc(part.all_right_M, part.was_all_right_M),
                "average_precision": average_precision(part.informative_M, informative_M),
                "brier": brier(part.informative_M, informative_M),
                "brier_skill": brier_skill(part.informative_M, informative_M),
                "ece": expected_calibration_error(part.informative_M, informative_M),
            }
    return found


def differences(qualities: Mapping[str, Quality]) -> list[dict[str, Any]]:
    """For each pair, first minus second, of AUROC and Brier score, with intervals paired by prompt."""
    return [
        {
            "estimator": first,
            "minus": second,
            "auroc": qualities[first].figures["auroc"] - qualities[second].figures["auroc"],
            "auroc_interval": interval(qualities[first].auroc_R - qualities[second].auroc_R),
            "brier": qualities[first].figures["brier"] - qualities[second].figures["brier"],
            "brier_interval": interval(qualities[first].brier_R - qualities[second].brier_R),
        }
        for first, second in combinations(qualities, 2)
    ]
