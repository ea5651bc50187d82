"""Full feedback: predict every prompt that is offered, then observe them all. How good are the predictions?

N: prompts, T: steps, M: graded predictions, R: resamples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Any

import numpy as np

from depo.estimators.base import Candidate, Context, Estimates, Estimator, Observation
from depo.estimators.moments import informative_probability
from depo.replay.trace import Told, Trace, smoothed_rates
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
from depo.rng import generator
from depo.types import Origin

Factory = Callable[[], Estimator]
"""Makes a fresh estimator: every replay starts from nothing."""


class Timed:
    """An estimator, and the seconds spent in it."""

    def __init__(self, estimator: Told | Estimator) -> None:
        self.estimator = estimator
        self.seconds = 0.0

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
        start = time.perf_counter()
        estimates = self.estimator.predict(candidates, context)
        self.seconds += time.perf_counter() - start
        return estimates

    def observe(self, observations: Sequence[Observation], context: Context) -> dict[str, float]:
        start = time.perf_counter()
        metrics = self.estimator.observe(observations, context)
        self.seconds += time.perf_counter() - start
        return metrics


@dataclass(frozen=True, slots=True)
class Predictions:
    """M predictions made before their outcomes, and the outcomes. All arrays (M,); ``prompt`` is the row of
    the prompt in the trace, ``visits`` how often it had been observed before."""

    prompt_M: np.ndarray
    visits_M: np.ndarray
    mean_M: np.ndarray
    informative_M: np.ndarray  # predicted probabilities of the three outcomes
    all_wrong_M: np.ndarray
    all_right_M: np.ndarray
    successes_M: np.ndarray
    trials_M: np.ndarray

    @property
    def was_mixed_M(self) -> np.ndarray:
        return ((self.successes_M > 0) & (self.successes_M < self.trials_M)).astype(np.float64)

    @property
    def was_all_wrong_M(self) -> np.ndarray:
        return (self.successes_M == 0).astype(np.float64)

    @property
    def was_all_right_M(self) -> np.ndarray:
        return (self.successes_M == self.trials_M).astype(np.float64)

    def of(self, member_M: np.ndarray) -> Predictions:
        return Predictions(*(getattr(self, field.name)[member_M] for field in fields(self)))


def full_feedback(
    trace: Trace,
    factory: Factory,
    group_size: int,
    told_rates: bool = False,
    batch: int | None = None,
    seed: int = 0,
) -> tuple[Predictions, float]:
    """Replay the trace; returns the graded predictions and the estimator's seconds per step.

    With ``told_rates`` the estimator is told the pass rates (``Told``). Where every prompt is offered,
    observations carry origin "audit" and propensity 1: nobody chose. With ``batch`` each visit is a pass in
    shuffled order (keyed by ``seed``), ``batch`` prompts a step, as in training: what is learned from the
    first prompts then helps with the later ones, also on a first visit.
    """
    parts: list[Predictions] = []
    visits_N = np.zeros(len(trace.prompts), dtype=np.int64)
    told = Told(factory(), trace) if told_rates else None
    estimator = Timed(told or factory())
    steps = 0
    for t, rows in offers(trace, batch, seed):
        steps += 1
        step = steps if batch else int(trace.steps_T[t])
        context = Context(group_size, step, float(trace.kl_T[t]))
        candidates = [
            Candidate(prompt.key, prompt.text, prompt.prior)
            for prompt in (trace.prompts[row] for row in rows)
        ]
        if told is not None:
            told.column = t
        observations = observations_at(trace, t, rows, step)
        estimates = estimator.predict(candidates, context)
        estimator.observe(observations, context)
        graded = trace.graded_NT[rows, t]
        parts.append(
            Predictions(
                rows,
                visits_N[rows],
                *probabilities(estimates, len(rows), type(estimator.estimator).__name__),
                trace.successes_NT[rows, t],
                trace.trials_NT[rows, t],
            ).of(graded)
        )
        visits_N[rows] += 1
    return joined(parts), estimator.seconds / max(steps, 1)


def probabilities(
    estimates: Estimates, n: int, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean and the probabilities of the three outcomes, each (n,). Raises ValueError when they are none."""
    found = []
    for what in ("mean", "p_informative", "p_all_wrong", "p_all_right"):
        values_N = np.asarray(getattr(estimates, what), dtype=np.float64)
        if values_N.shape != (n,) or not ((values_N >= 0) & (values_N <= 1)).all():  # NaN fails too
            raise ValueError(f"{name}: {what} must be ({n},) probabilities, found shape {values_N.shape}")
        found.append(values_N)
    mean_N, informative_N, all_wrong_N, all_right_N = found
    return mean_N, informative_N, all_wrong_N, all_right_N


def offers(trace: Trace, batch: int | None, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """(column, rows) of what is offered together; columns without any outcome are left out."""
    recorded_NT = trace.recorded_NT
    for t in range(recorded_NT.shape[1]):
        rows = np.flatnonzero(recorded_NT[:, t])
        if not len(rows):
            continue
        if batch is None:
            yield t, rows
            continue
        rows = generator(seed, "replay pass", t).permutation(rows)
        for start in range(0, len(rows), batch):
            yield t, rows[start : start + batch]


def smoother(trace: Trace, group_size: int) -> Predictions | None:
    """The reference that sees the future: the smoothed pass rate taken for the truth. None when no prompt
    was visited twice."""
    rate_NT = smoothed_rates(trace.successes_NT, trace.trials_NT)
    graded_NT = trace.graded_NT & np.isfinite(rate_NT)
    if not graded_NT.any():
        return None
    visits_NT = np.cumsum(trace.recorded_NT, axis=1) - trace.recorded_NT
    row_M, _ = np.nonzero(graded_NT)
    rate_M = np.clip(rate_NT[graded_NT], 0.0, 1.0)
    return Predictions(
        row_M,
        visits_NT[graded_NT],
        rate_M,
        informative_probability(rate_M, group_size),
        (1 - rate_M) ** group_size,
        rate_M**group_size,
        trace.successes_NT[graded_NT],
        trace.trials_NT[graded_NT],
    )


def observations_at(trace: Trace, t: int, rows: np.ndarray, step: int) -> list[Observation]:
    return [
        Observation(
            key=trace.prompts[row].key,
            text=trace.prompts[row].text,
            successes=int(trace.successes_NT[row, t]),
            trials=int(trace.trials_NT[row, t]),
            step=step,
            mean_logprob=math.nan if trace.logprob_NT is None else float(trace.logprob_NT[row, t]),
            origin=Origin.AUDIT.value if trace.origin_NT is None else str(trace.origin_NT[row, t]),
            propensity=1.0 if trace.propensity_NT is None else float(trace.propensity_NT[row, t]),
            prior=trace.prompts[row].prior,
        )
        for row in rows
    ]


def joined(parts: list[Predictions]) -> Predictions:
    return Predictions(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Predictions))
    )


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
        **scores(one),
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
        "by_visits": {
            label: {"predictions": int(member_M.sum()), **scores(one.of(member_M))}
            for label, member_M in by_visits(one.visits_M)
            if member_M.any()
        },
        "reliability": reliability(one.informative_M, informative_M),
    }
    return Quality(figures, auroc_R, brier_R)


def interval(values_R: np.ndarray) -> list[float] | None:
    """The 95 % percentile interval of a resampled figure; None where no resample defines it."""
    low, high = limits(values_R, 2.5)
    return None if low is None or high is None else [low, high]


def scores(one: Predictions) -> dict[str, float]:
    """The main figures; NaN where one is undefined."""
    informative_M = one.was_mixed_M
    return {
        "auroc": auroc(one.informative_M, informative_M),
        "auroc_all_wrong": auroc(one.all_wrong_M, one.was_all_wrong_M),
        "auroc_all_right": auroc(one.all_right_M, one.was_all_right_M),
        "average_precision": average_precision(one.informative_M, informative_M),
        "brier": brier(one.informative_M, informative_M),
        "brier_skill": brier_skill(one.informative_M, informative_M),
        "ece": expected_calibration_error(one.informative_M, informative_M),
    }


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
