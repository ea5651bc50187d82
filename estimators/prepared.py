"""Beliefs computed ahead of time, for one policy step: off the critical path, looked up when asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estimators.base import Candidate


class Prepared:
    """Rows (N, M), N ≥ 1, for candidates at ``step``."""

    def __init__(self, candidates: Sequence[Candidate], belief_NM: np.ndarray, step: int) -> None:
        self.step = step
        self.belief_NM = belief_NM
        self.row = {candidate.key: row for row, candidate in enumerate(candidates)}

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Row of each key (K,), −1 where nothing was prepared for it."""
        return np.array([self.row.get(key, -1) for key in keys], dtype=np.int64)
