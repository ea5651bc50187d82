"""What was recorded: outcomes of N prompts at T steps; and pass rates from the whole of it, later visits
included, for the reference line and the oracle, which see the future.

N: prompts, T: steps of the trace, V: visits of one prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from depo.errors import UserError
from depo.estimators.base import Candidate, Context, Estimates, Estimator, Observation
from depo.types import Prompt

MISSING = -1

SPLITS = ("odd", "even", "all")


@dataclass(frozen=True)
class Trace:
    """``successes_NT`` of ``trials_NT`` rollouts were correct at step t; −1 and 0 where nothing was recorded.

    ``steps_T`` is the policy step that the estimator is told, ``kl_T`` the KL travelled before it (nats; 0
    where it was not recorded). ``graded_NT`` marks the outcomes on which predictions are graded.
    ``rate_N`` is the prompts' pass rate where it is known better than from the outcomes (count files).
    ``origin_NT`` and ``propensity_NT`` are those of a run's picks, ``logprob_NT`` the mean token
    log-probability of its groups (nats); None where all prompts were offered.
    ``notes`` say what the reader of any figure must know about how the trace was read.
    """

    source: str
    kind: Literal["training", "counts", "run"]
    prompts: tuple[Prompt, ...]
    successes_NT: np.ndarray
    trials_NT: np.ndarray
    graded_NT: np.ndarray
    steps_T: np.ndarray
    kl_T: np.ndarray
    rate_N: np.ndarray | None = None
    origin_NT: np.ndarray | None = None
    propensity_NT: np.ndarray | None = None
    logprob_NT: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def recorded_NT(self) -> np.ndarray:
        return self.trials_NT > 0

    @property
    def informative_NT(self) -> np.ndarray:
        return (self.successes_NT > 0) & (self.successes_NT < self.trials_NT)

    @property
    def offers_all(self) -> bool:
        """Every prompt has an outcome at every step, so that any selector's picks can be answered."""
        return self.kind != "run" and bool(self.recorded_NT.all())

    def first(self, steps: int) -> Trace:
        """The trace up to so many of its steps."""
        optional: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[:, :steps]
            for name in ("origin_NT", "propensity_NT", "logprob_NT")
        }
        return replace(
            self,
            successes_NT=self.successes_NT[:, :steps],
            trials_NT=self.trials_NT[:, :steps],
            graded_NT=self.graded_NT[:, :steps],
            steps_T=self.steps_T[:steps],
            kl_T=self.kl_T[:steps],
            **optional,
        )

    def take(self, rows: np.ndarray) -> Trace:
        """The trace of some of its prompts: ``rows`` is (N,) bool or an array of row numbers."""
        numbers = np.flatnonzero(rows) if rows.dtype == bool else rows
        optional: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[numbers]
            for name in ("rate_N", "origin_NT", "propensity_NT", "logprob_NT")
        }
        return replace(
            self,
            prompts=tuple(self.prompts[row] for row in numbers),
            successes_NT=self.successes_NT[numbers],
            trials_NT=self.trials_NT[numbers],
            graded_NT=self.graded_NT[numbers],
            **optional,
        )

    def grade_only(self, rows_N: np.ndarray) -> Trace:
        """The same trace, graded on the prompts of ``rows_N`` (N,) bool alone."""
        return replace(self, graded_NT=self.graded_NT & rows_N[:, None])


def split_rows(trace: Trace, split: str) -> np.ndarray:
    """(N,) bool: the prompts of a split. A prompt is odd or even as int(SHA-256 of its key, 16) is.

    Raises UserError when the split holds no prompt.
    """
    parity = {"even": 0, "odd": 1}
    keep_N = np.array(
        [
            split == "all" or int(hashlib.sha256(prompt.key.encode()).hexdigest(), 16) % 2 == parity[split]
            for prompt in trace.prompts
        ],
        dtype=bool,
    )
    if not keep_N.any():
        raise UserError(f"{trace.source}: no prompts in split {split!r} (of {len(keep_N)} in the trace)")
    return keep_N


SIGMA = 3.0


def kernel(visits: int, sigma: float = SIGMA) -> np.ndarray:
    """Gaussian weights (V, V) between visits, 0 for the visit itself."""
    distance_VV = np.subtract.outer(np.arange(visits), np.arange(visits))
    weight_VV = np.exp(-0.5 * (distance_VV / sigma) ** 2)
    np.fill_diagonal(weight_VV, 0.0)
    return weight_VV


def smoothed_rates(successes_NT: np.ndarray, trials_NT: np.ndarray, sigma: float = SIGMA) -> np.ndarray:
    """Pass rate at each visit from the prompt's other visits, earlier and later ones: Σ w·k / Σ w·n.

    (N, T) float64; NaN where nothing was recorded and where a prompt has no other visit. Visits are counted
    per prompt: steps at which it was not visited do not lie between them.
    """
    rate_NT = np.full(successes_NT.shape, np.nan)
    recorded_NT = trials_NT > 0
    patterns, pattern_N = np.unique(recorded_NT, axis=0, return_inverse=True)
    for index, pattern_T in enumerate(patterns):  # prompts with the same gaps share their weights
        columns = np.flatnonzero(pattern_T)
        if len(columns) < 2:
            continue
        cells = np.ix_(np.flatnonzero(pattern_N.reshape(-1) == index), columns)
        weight_VV = kernel(len(columns), sigma)
        rate_NT[cells] = (successes_NT[cells] @ weight_VV) / (trials_NT[cells] @ weight_VV)
    return rate_NT


class Told:
    """Passes everything on, with each candidate's ``prior`` replaced by its pass rate at step ``column``.

    That rate is the recorded one of a count file, else the smoother's, which leaves out the visit itself but
    sees the later ones. It replays; it has no state to save.
    """

    def __init__(self, estimator: Estimator, trace: Trace) -> None:
        self.estimator = estimator
        self.column = 0
        self._rate_NT = true_rates(trace)
        self._row = {prompt.key: row for row, prompt in enumerate(trace.prompts)}

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
        rates = self._rate_NT[[self._row[candidate.key] for candidate in candidates], self.column]
        told = [
            replace(candidate, prior=None if np.isnan(rate) else float(rate))
            for candidate, rate in zip(candidates, rates, strict=True)
        ]
        return self.estimator.predict(told, context)

    def observe(self, observations: Sequence[Observation], context: Context) -> dict[str, float]:
        return self.estimator.observe(observations, context)


def true_rates(trace: Trace) -> np.ndarray:
    """(N, T) in [0, 1]; NaN where nothing is known."""
    if trace.rate_N is not None:
        return np.repeat(trace.rate_N[:, None], trace.trials_NT.shape[1], axis=1)
    return np.clip(smoothed_rates(trace.successes_NT, trace.trials_NT), 0.0, 1.0)
