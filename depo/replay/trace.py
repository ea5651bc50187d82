"""What was recorded: outcomes of N prompts at T steps.

N: prompts, T: steps of the trace.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from depo.errors import UserError
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
