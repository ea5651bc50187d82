"""What is believed about prompts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

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


class PluginEstimator(Block):
    """An estimator registered by a package under the entry-point group ``depo.estimators``."""

    type: Literal["plugin"] = "plugin"
    name: str
    options: dict[str, Any] = {}


EstimatorSpec = Annotated[
    UniformEstimator | BetaEstimator | HybridEstimator | PluginEstimator, Field(discriminator="type")
]
