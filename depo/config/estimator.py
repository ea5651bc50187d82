"""What is believed about prompts."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from depo.config.block import Block, Fraction, PositiveFloat


class UniformEstimator(Block):
    """No estimate: every prompt looks alike (GRPO, DAPO)."""

    type: Literal["uniform"] = "uniform"


class BetaEstimator(Block):
    """Discounted Beta posterior per prompt (MoPPS, arXiv 2507.04632)."""

    type: Literal["beta"] = "beta"
    prior_successes: PositiveFloat = 1.0
    prior_failures: PositiveFloat = 1.0
    discount: Fraction = 0.5
    """What an old count keeps at the next visit of the same prompt (MoPPS's λ)."""


class HybridEstimator(Block):
    """Item response theory in motion: population, text prior, history and the policy's ability."""

    type: Literal["hybrid"] = "hybrid"
    text: Literal["ngrams", "none"] = "ngrams"
    """What reads the prompts' texts: logistic regression on hashed n-grams (no torch), or nothing."""
    features: Literal["none", "policy"] = "none"
    """``policy``: one prefill of each candidate not visited yet tells how the policy sees it (perplexity,
    entropy of the first token, last hidden state). Costs ``selection.candidates`` prefills a step: keep those
    few."""
    history: bool = True
    """Remember each prompt's outcomes. Off: only what is known before a first visit (an ablation)."""
    drift: bool = True
    """Let the policy's ability move all pass rates together."""
    ability_step: PositiveFloat = 0.03
    """How far ability may move in one policy step, as a standard deviation in logits."""
    memory: PositiveFloat = 3000.0
    """Groups over which the pool's composition and the model's own settings are learned."""
    noise: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0005
    """Chance that a verdict is wrong: keeps one wrong verdict from contradicting a belief beyond repair."""
    seed: int = 0


class StreakEstimator(Block):
    """Keep probabilities from runs of zero-variance groups (GRESO, arXiv 2506.02177). Not calibrated."""

    type: Literal["streak"] = "streak"
    p_easy: Fraction = 0.5
    """Base keep probability after all-right groups, at the start; it adjusts itself."""
    p_hard: Fraction = 0.5
    """The same after all-wrong groups."""
    target_easy: Fraction = 1 / 12
    """Share of all-right groups in a step from which p_easy falls, and below which it rises."""
    target_hard: Fraction = 1 / 6
    """The same of all-wrong groups and p_hard."""
    adjustment: Fraction = 0.01
    """How far both move after a step."""
    p_min: Fraction = 0.05
    """Neither falls below this …"""
    p_max: Fraction = 0.95
    """… nor rises above this."""

    @model_validator(mode="after")
    def bounds_hold(self) -> Self:
        for name, value in (("p_easy", self.p_easy), ("p_hard", self.p_hard)):
            if not self.p_min <= value <= self.p_max:
                raise ValueError(
                    f"{name} must lie between p_min {self.p_min} and p_max {self.p_max}, found {value}"
                )
        return self


class HmmEstimator(Block):
    """Three-state filter (all wrong, mixed, all right) with learned transitions (DPS, arXiv 2603.10887)."""

    type: Literal["hmm"] = "hmm"
    prior_count: PositiveFloat = 0.3
    """Dirichlet prior count of every transition; the paper has 1."""
    discount: Fraction = 0.9
    """What a prompt's learned transition counts keep at each transition."""
    confusion: Annotated[float, Field(ge=0.0, lt=1 / 3)] = 0.05
    """Chance that a group shows the outcome of a neighbouring state; the paper has 0."""
    steps_per_transition: PositiveInt = 1
    """Policy steps that make one transition of a prompt not visited; the paper has 1."""


class OracleEstimator(Block):
    """Takes the pass rate that the data set brings along for the truth. Benchmarks only."""

    type: Literal["oracle"] = "oracle"


class PluginEstimator(Block):
    """An estimator registered by a package under the entry-point group ``depo.estimators``."""

    type: Literal["plugin"] = "plugin"
    name: str
    options: dict[str, Any] = {}


EstimatorSpec = Annotated[
    UniformEstimator
    | BetaEstimator
    | StreakEstimator
    | HmmEstimator
    | HybridEstimator
    | OracleEstimator
    | PluginEstimator,
    Field(discriminator="type"),
]
