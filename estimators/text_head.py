"""What a text head is: a pass rate out of a prompt's words, learned from the groups observed so far.

Two are built in: ``ngram_head.HashedNgramHead`` (numpy only) and ``encoder_head.EncoderHead`` (torch).
N: prompts asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from estimators.base import Observation, State


class TextHead(Protocol):
    def pass_rate(self, texts: Sequence[str], keys: Sequence[str]) -> np.ndarray:
        """Believed mean pass rates, float64 (N,) strictly inside (0, 1).

        ``keys`` are content hashes: equal keys mean equal texts, so that work is cached by key. Raises
        ValueError when there are not as many keys as texts.
        """
        ...

    def fit(self, observations: Sequence[Observation]) -> dict[str, float]:
        """Learn from finished groups; returns metrics to log."""
        ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


def require_keys(texts: Sequence[str], keys: Sequence[str]) -> None:
    """Raises ValueError when there are not as many keys as texts."""
    if len(texts) != len(keys):
        raise ValueError(f"text head: as many keys as texts are needed, found {len(keys)} and {len(texts)}")
