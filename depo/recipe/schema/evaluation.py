"""What is measured before, during and after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import NonNegativeInt, PositiveInt, field_validator, model_validator

from depo.recipe.schema.block import Block, NonNegativeFloat
from depo.recipe.schema.data import Source, source_from_shorthand
from depo.recipe.schema.reward import RewardSpec
from depo.recipe.schema.rollout import check_draws


class EvalSet(Block):
    """A named benchmark."""

    name: str
    """What its accuracy is called in metrics and by ``best``."""
    source: Source
    """Where its problems come from, as for ``data.train``."""
    reward: RewardSpec | None = None
    """The recipe's reward when null."""

    @field_validator("name")
    @classmethod
    def is_no_other_measure(cls, value: str) -> str:
        if value in ("all", "solvable") or "/" in value:
            raise ValueError(
                f"{value!r} is no name for a set: all and solvable are measures of their own, and names with "
                "/ are a suite's"
            )
        return value

    @field_validator("source", mode="before")
    @classmethod
    def shorthand(cls, value: Any) -> Any:
        return source_from_shorthand(value)


class EarlyStopping(Block):
    """End a run that no longer improves by ``evaluation.best``."""

    patience: PositiveInt
    """Evaluations in a row without an improvement by more than ``min_delta``."""
    min_delta: NonNegativeFloat = 0.0
    """What counts as an improvement over the value from which patience began. The best policy is kept
    however small its lead."""


class Evaluation(Block):
    """Accuracy on held-out prompts and benchmarks, before and after training."""

    method: Literal["sample", "exact"] = "sample"
    """``sample``: n completions each. ``exact``: probability of the gold answer by teacher forcing, for
    data with one exact answer."""
    n: PositiveInt = 1
    """Completions per problem (``sample`` only)."""
    temperature: NonNegativeFloat = 0.0
    """0 is greedy, and then n must be 1."""
    sets: list[EvalSet] = []
    """Benchmarks to measure beside the held-out prompts."""
    suite: str | None = None
    """A suite of benchmarks as `depo eval` runs it, by name or file, with its own prompts, rewards and
    sampling, beside held-out prompts and ``sets``."""
    suite_data: Path | None = None
    """Directory with local copies of the suite's benchmarks; see docs/evaluation.md."""
    suite_overrides: list[str] = []
    """Keys of the suite to set: ["sampling.n=4", "benchmarks.gsm8k.source.limit=200"]."""
    best: str | None = None
    """Measure by which the best policy so far is kept in ``best/``: all, solvable, a set's name, or a suite's
    (math/avg, math/pass@8, math/gsm8k/avg). Higher is better."""
    early_stopping: EarlyStopping | None = None
    """End the run when it no longer improves; null: never."""
    at_start: bool = True
    """Measure before the first step."""
    at_end: bool = True
    """Measure after the last step."""
    every: NonNegativeInt = 0
    """Also every so many steps; 0: never."""
    every_rollouts: NonNegativeInt = 0
    """Also after the step in which training has generated so many more rollouts; 0: never. Compares runs that
    spend different numbers of rollouts on a step."""

    @property
    def yardstick(self) -> dict[str, Any]:
        """All that decides what an evaluation measures; two that differ here cannot be compared."""
        when_and_why = {"best", "early_stopping", "at_start", "at_end", "every", "every_rollouts"}
        return self.model_dump(mode="json", exclude=when_and_why)

    @field_validator("sets")
    @classmethod
    def names_are_unique(cls, value: list[EvalSet]) -> list[EvalSet]:
        names = [one.name for one in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{names.count(name)} sets are called {name!r}; give each a name of its own")
        return value

    @model_validator(mode="after")
    def greedy_is_asked_once(self) -> Self:
        if self.method == "sample":
            check_draws(self.n, self.temperature)
        return self

    @model_validator(mode="after")
    def stopping_has_a_measure(self) -> Self:
        if self.early_stopping is not None:
            if self.best is None:
                raise ValueError("evaluation.early_stopping needs evaluation.best: the measure to watch")
            if not (self.every or self.every_rollouts):
                raise ValueError("evaluation.early_stopping needs evaluation.every or every_rollouts")
        if self.suite is None and (self.suite_data is not None or self.suite_overrides):
            raise ValueError("evaluation.suite_data and suite_overrides need evaluation.suite")
        return self
