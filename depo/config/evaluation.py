"""What is measured before, during and after training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt, field_validator

from depo.config.block import Block, NonNegativeFloat
from depo.config.data import Source, source_from_shorthand
from depo.config.reward import RewardSpec


class EvalSet(Block):
    """A named benchmark."""

    name: str
    source: Source
    reward: RewardSpec | None = None
    """The recipe's reward when null."""

    @field_validator("source", mode="before")
    @classmethod
    def shorthand(cls, value: Any) -> Any:
        return source_from_shorthand(value)


class Evaluation(Block):
    """Accuracy on held-out prompts and benchmarks, before and after training."""

    method: Literal["sample", "exact"] = "sample"
    """``sample``: n completions each. ``exact``: probability of the gold answer by teacher forcing, for
    data with one exact answer."""
    n: PositiveInt = 1
    """Completions per problem (``sample`` only)."""
    temperature: NonNegativeFloat = 0.0
    """0 is greedy."""
    sets: list[EvalSet] = []
    at_start: bool = True
    at_end: bool = True
    every: NonNegativeInt = 0
    """Also every so many steps; 0: never."""
    every_rollouts: NonNegativeInt = 0
    """Also after the step in which training has generated so many more rollouts; 0: never. Compares runs that
    spend different numbers of rollouts on a step."""
