"""What a selector can be told: plain values, whoever read them and from where."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

CANDIDATES = 8  # for each prompt of a batch: candidates "auto"
PASSES = 4  # revisit_after "auto": the time of so many passes over the pool


@dataclass(frozen=True, slots=True)
class SelectionSettings:
    """Raises ValueError where two settings contradict each other."""

    batch: int
    """B: prompts that a step wants."""
    refill: bool = False
    """Pick further rounds until B groups are informative."""
    max_rounds: int = 4
    """Rounds of a step at most, the first included."""
    audit: float = 0.05
    """Share of a first round that is drawn uniformly from the pool, whatever the estimator says."""
    window: int = 400
    """Uniformly drawn groups over which the estimator is graded."""
    min_window: int = 200
    """Selection is uniform until so many have been graded; 0: never for that reason."""
    warmup_steps: int = 0
    """Selection is uniform for so many steps, whatever the estimator is worth."""
    confidence: float = 0.95
    """Of the one-sided tests by which the gate opens and closes."""
    candidates: int | Literal["auto"] = "auto"
    """Prompts that a rule considers in a round; auto: 8 · B."""
    cooldown: int = 0
    """Steps during which a prompt just visited is passed over, as long as there are others."""
    revisit_after: int | Literal["auto"] | None = "auto"
    """Steps after which a prompt gets a reserved place; auto: 4 · pool / B; None: never."""
    revisit_share: float = 0.05
    """Largest share of a first round that such prompts get."""

    def __post_init__(self) -> None:
        if self.min_window > self.window:
            raise ValueError(f"min_window {self.min_window} exceeds window {self.window}")
        if self.considered < self.batch:
            raise ValueError(
                f"candidates {self.candidates} must be at least the batch of {self.batch}: a round is chosen "
                "among them"
            )
        reserved = self.revisit_share if self.revisit_after is not None else 0.0
        if self.audit + reserved > 1:
            raise ValueError(f"audit {self.audit} and revisit_share {reserved} add up to more than 1")

    @property
    def considered(self) -> int:
        """Candidates of a round."""
        return CANDIDATES * self.batch if self.candidates == "auto" else self.candidates

    def longest_wait(self, pool_size: int) -> int | None:
        """Steps that a prompt may wait before it gets a reserved place; None: for ever."""
        if self.revisit_after == "auto":
            return math.ceil(PASSES * pool_size / self.batch)
        return self.revisit_after
