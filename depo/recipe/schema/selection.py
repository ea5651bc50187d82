"""Which prompts are rolled out."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from depo.recipe.schema.block import Block, Fraction, PositiveFloat


class SelectionBase(Block):
    audit: Fraction = 0.05
    """Share of every batch drawn uniformly from the pool to grade the estimator."""
    prefill_probe: bool | Literal["auto"] = "auto"
    """Show the estimator what one prefill by today's policy tells about each candidate (perplexity, entropy
    of the first token, last hidden state), at each round. Costs a prefill of every candidate. auto: with
    estimator.type hybrid, which makes use of it."""
    answer_rescoring: NonNegativeInt = 0
    """Earlier answers to keep of each prompt. At each round, one prefill of each kept answer tells how likely
    it is under today's policy, and the estimator is shown that (hybrid). Answers with a probability below
    1/1000 are not kept: long answers cost nothing. 0: none."""
    refill: bool = False
    """Generate further rounds until the batch is full of informative groups (DAPO's dynamic sampling)."""
    max_rounds: PositiveInt = 4
    """Rounds per step at most, the first included."""
    window: PositiveInt = 400
    """Uniformly drawn groups over which the estimator is graded."""
    min_window: NonNegativeInt = 200
    """Selection stays uniform until this many groups have been graded (warm-up). 0: select from the first
    step, and never fail open."""
    warmup_steps: NonNegativeInt = 0
    """Selection stays uniform for this many steps whatever the estimator is worth (DEPO's warm-up)."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Level of the one-sided tests that end the warm-up and that let selection fail open."""

    @model_validator(mode="after")
    def window_fits(self) -> Self:
        if self.min_window > self.window:
            raise ValueError(f"min_window {self.min_window} exceeds window {self.window}")
        return self

    @property
    def spec(self) -> dict[str, Any]:
        """What ``depo.selection.build_selector`` takes. It is handed the means to ask the policy."""
        return self.model_dump(exclude={"prefill_probe", "answer_rescoring"})


class UniformSelection(SelectionBase):
    """Prompts in shuffled order, pass after pass."""

    type: Literal["uniform"] = "uniform"


class RuleSelection(SelectionBase):
    """What the rules that go by an estimator share."""

    candidates: PositiveInt | Literal["auto"] = "auto"
    """Prompts considered per round, at least batch.prompts, drawn uniformly from the pool (``skip``: the next
    ones in its order). auto: 8 · batch.prompts."""
    cooldown: NonNegativeInt = 0
    """Steps during which a prompt just visited is passed over, as long as there are others."""
    revisit_after: PositiveInt | Literal["auto"] | None = "auto"
    """Steps after which a prompt not visited gets a reserved place; auto: 4 · pool / batch.prompts, the time
    of four passes; null: never."""
    revisit_share: Fraction = 0.05
    """Largest share of a first round that such prompts get."""

    @model_validator(mode="after")
    def rule_keeps_places(self) -> Self:
        if self.audit + (self.revisit_share if self.revisit_after is not None else 0.0) > 1:
            raise ValueError(
                f"audit {self.audit} and revisit_share {self.revisit_share} must not add up to more than 1"
            )
        return self


class ThompsonSelection(RuleSelection):
    """Draw pass rates from each belief, take the prompts most likely to give an informative group under
    them."""

    type: Literal["thompson"] = "thompson"
    draws: PositiveInt = 16
    """The score is the mean over so many draws. 1 is Thompson sampling; with more, it comes closer to
    `greedy`."""


class OptimisticSelection(RuleSelection):
    """Thompson's draws, the best of several, until a prompt is known; the belief itself afterwards."""

    type: Literal["optimistic"] = "optimistic"
    sure_after: NonNegativeInt = 3
    """Visits after which a prompt's belief is used as it is, without draws."""
    draws: PositiveInt = 2
    """Draws for the other prompts; the best one counts."""
    revisit_after: PositiveInt | Literal["auto"] | None = None
    """As for the other rules, but off by default: this rule returns to little-known prompts by itself."""


class WindowSelection(RuleSelection):
    """Prompts drawn uniformly among those whose mean pass rate lies in a window (DEPO, arXiv 2602.06375)."""

    type: Literal["window"] = "window"
    low: Fraction = 0.15
    """Lowest mean pass rate of the window."""
    high: Fraction = 0.85
    """Highest mean pass rate of the window."""

    @model_validator(mode="after")
    def window_is_open(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} exceeds high {self.high}")
        return self


class ThresholdSelection(RuleSelection):
    """Prompts drawn uniformly among those with p_informative at or above a threshold."""

    type: Literal["threshold"] = "threshold"
    p_informative: Fraction = 0.3
    """The threshold: lowest probability of an informative group."""


class SkipSelection(RuleSelection):
    """The pool in its order, each prompt kept with probability p_informative (GRESO, arXiv 2506.02177)."""

    type: Literal["skip"] = "skip"


class GumbelSelection(RuleSelection):
    """Drawn without replacement with probability ∝ (p_informative / expected tokens)^(1/temperature)."""

    type: Literal["gumbel"] = "gumbel"
    temperature: PositiveFloat = 0.25
    """Low values come close to taking the highest; high ones to a uniform draw."""


class GreedySelection(RuleSelection):
    """The highest p_informative (DPS, arXiv 2603.10887). Returns to the same few prompts: for comparison."""

    type: Literal["greedy"] = "greedy"


class PluginSelection(RuleSelection):
    """A rule registered by a package under the entry-point group ``depo.rules``."""

    type: Literal["plugin"] = "plugin"
    name: str
    """Name of the entry point."""
    options: dict[str, Any] = {}
    """What the rule takes as keywords."""


Selection = Annotated[
    UniformSelection
    | ThompsonSelection
    | OptimisticSelection
    | WindowSelection
    | ThresholdSelection
    | SkipSelection
    | GumbelSelection
    | GreedySelection
    | PluginSelection,
    Field(discriminator="type"),
]
