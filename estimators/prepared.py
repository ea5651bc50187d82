"""Beliefs computed ahead of time, for one policy step: off the critical path, looked up when asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estimators.base import Candidate


class Prepared:
    """Rows (N, M) for candidates at ``step``. What the policy thinks of a candidate (its ``features``) is not
    known ahead, so that such a candidate is found only when ``visited``: history has taken over then."""

    def __init__(self, candidates: Sequence[Candidate], belief_NM: np.ndarray, step: int) -> None:
        self.step = step
        self.belief_NM = belief_NM
        self.row = {candidate.key: row for row, candidate in enumerate(candidates)}

    def rows(self, candidates: Sequence[Candidate], visited_N: np.ndarray, step: int) -> np.ndarray:
        """Row of each candidate (N,), −1 where nothing was prepared for it at this step."""
        if step != self.step:
            return np.full(len(candidates), -1)
        row_N = np.array([self.row.get(candidate.key, -1) for candidate in candidates], dtype=np.int64)
        featured_N = np.array([candidate.features is not None for candidate in candidates], dtype=bool)
        row_N[featured_N & ~visited_N] = -1
        return row_N
