"""What is believed about prompts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from depo.config.block import Block, Fraction, NonNegativeFloat, PositiveFloat


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


class EncoderEstimator(Block):
    """DEPO's difficulty estimator (arXiv 2602.06375): a pretrained encoder with two heads, trained online.

    Null means: as the preset has it. The presets and the reasons are in `estimators/encoder_options.py`.
    """

    type: Literal["encoder"] = "encoder"
    model: str
    """BERT-family encoder: Hugging Face id or local directory (`depo fetch minilm DIR`)."""
    preset: Literal["paper", "repaired"] = "paper"
    """``paper``: as published. ``repaired``: replay, beta-binomial likelihood, ranking per pair in logits on
    pairs beyond chance, no dropout, both ends of long prompts."""
    max_length: Annotated[int, Field(ge=3)] = 512
    """Tokens read of a prompt."""
    truncation: Literal["right", "middle"] | None = None
    """What a longer prompt loses: its end, or its middle."""
    frozen: bool = False
    """Train trunk and heads only; each prompt is then read once."""
    likelihood: Literal["bce", "beta_binomial"] | None = None
    """Loss of the pass-rate head."""
    distillation_weight: NonNegativeFloat | None = None
    """Of the head that predicts exp(mean token log-probability); 0.5 in both presets."""
    ranking_weight: NonNegativeFloat | None = None
    """3 in both presets."""
    ranking_margin: NonNegativeFloat | None = None
    """0.5 in both presets."""
    ranking_score: Literal["probability", "logit"] | None = None
    """What the margin is measured in."""
    ranking_min_gap: NonNegativeFloat | None = None
    """Pairs are ranked whose observed rates differ by more; 0.05 in both presets."""
    ranking_gap: Literal["fixed", "confident"] | None = None
    """``confident``: by more than one rollout and one standard error as well."""
    ranking_reduction: Literal["micro_batch", "pairs"] | None = None
    """Sum over the pairs of a micro-batch, per prompt; or mean over all pairs of the step."""
    dropout: Literal["on", "ranking_off", "off"] | None = None
    steps: PositiveInt | None = None
    """Optimizer steps per batch of groups."""
    replay: NonNegativeInt | None = None
    """Older groups added to each step."""
    memory: PositiveInt | None = None
    """Groups kept for replay; 8192 in both presets."""
    learning_rate: PositiveFloat | None = None
    """Of trunk and heads (AdamW); 2e-4 in both presets."""
    backbone_rate: Fraction | None = None
    """Learning rate of the backbone as a share of that; 1/5 in both presets."""
    weight_decay: NonNegativeFloat | None = None
    micro_batch: PositiveInt = 32
    """Prompts per forward and backward pass."""
    blocks: PositiveInt | None = None
    """Residual blocks of the trunk."""
    concentration: PositiveFloat | None = None
    """Pseudo-rollouts that a prediction is worth before any was compared with an outcome."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the backbone's matrix products; weights are float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: NonNegativeInt = 0


class PluginEstimator(Block):
    """An estimator registered by a package under the entry-point group ``depo.estimators``."""

    type: Literal["plugin"] = "plugin"
    name: str
    options: dict[str, Any] = {}


EstimatorSpec = Annotated[
    UniformEstimator | BetaEstimator | EncoderEstimator | PluginEstimator, Field(discriminator="type")
]
