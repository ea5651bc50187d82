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


class PluginEstimator(Block):
    """An estimator registered by a package under the entry-point group ``depo.estimators``."""

    type: Literal["plugin"] = "plugin"
    name: str
    options: dict[str, Any] = {}


EstimatorSpec = Annotated[UniformEstimator | BetaEstimator | PluginEstimator, Field(discriminator="type")]
