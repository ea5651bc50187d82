"""Which prompts are rolled out."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from depo.config.block import Block, Fraction


class SelectionBase(Block):
    audit: Fraction = 0.05
    """Share of every batch drawn uniformly from the pool to grade the estimator."""
    refill: bool = True
    """Generate further waves until the batch is full of groups with signal (DAPO's dynamic sampling)."""
    max_waves: PositiveInt = 4
    """Waves per step at most, the first included."""
    window: PositiveInt = 400
    """Uniformly drawn groups over which the estimator is graded."""
    min_window: NonNegativeInt = 200
    """Selection stays uniform until this many groups have been graded (warm-up). 0: select from the first
    step, and never fail open."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Of the one-sided tests that end the warm-up and that let selection fail open."""

    @model_validator(mode="after")
    def window_fits(self) -> Self:
        if self.min_window > self.window:
            raise ValueError(f"min_window {self.min_window} exceeds window {self.window}")
        return self


class UniformSelection(SelectionBase):
    """Prompts in shuffled order, pass after pass."""

    type: Literal["uniform"] = "uniform"


class ThompsonSelection(SelectionBase):
    """Draw a pass rate from each belief, take the prompts most likely to give a mixed group under it."""

    type: Literal["thompson"] = "thompson"
    candidates: PositiveInt = 8192
    """Prompts considered per wave, drawn uniformly from the pool."""


Selection = Annotated[UniformSelection | ThompsonSelection, Field(discriminator="type")]
