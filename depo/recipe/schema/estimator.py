"""What is believed about prompts."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from depo.recipe.schema.block import Block, Fraction, NonNegativeFloat, PositiveFloat


class UniformEstimator(Block):
    """No estimate: every prompt looks alike (GRPO, DAPO)."""

    type: Literal["uniform"] = "uniform"


class MoppsEstimator(Block):
    """Discounted Beta posterior per prompt (MoPPS, arXiv 2507.04632)."""

    type: Literal["mopps"] = "mopps"
    prior_successes: PositiveFloat = 1.0
    """Successes with which a prompt starts (α₀). A pass rate from the data set keeps the sum of both
    counts."""
    prior_failures: PositiveFloat = 1.0
    """Failures with which a prompt starts (β₀)."""
    discount: Fraction = 0.5
    """What an old count keeps at the next visit of the same prompt (MoPPS's λ)."""


class HybridEstimator(Block):
    """Item response theory in motion: population, text prior, history and the policy's ability."""

    type: Literal["hybrid"] = "hybrid"
    text: Literal["ngrams", "encoder", "none"] = "ngrams"
    """What reads the prompts' texts: logistic regression on hashed n-grams (no torch), heads on
    a frozen encoder (needs ``text_model``), or nothing."""
    text_model: str | None = None
    """BERT-family encoder: Hugging Face id or local directory (`depo fetch minilm DIR`)."""
    history: bool = True
    """Remember each prompt's outcomes. Off: only what is known before a first visit (an ablation)."""
    drift: bool = True
    """Let the policy's ability move all pass rates together."""
    ability_step: PositiveFloat = 0.03
    """How far ability may move in one policy step, as a standard deviation in logits."""
    memory: PositiveFloat = 3000.0
    """Groups over which the pool's composition and the model's own settings are learned."""
    noise: Annotated[float, Field(ge=1e-9, lt=0.5)] = 0.0005
    """Chance that a verdict is wrong: keeps one wrong verdict from contradicting a belief beyond repair."""
    seed: NonNegativeInt = 0
    """The text reader's random draws are keyed by it."""

    @model_validator(mode="after")
    def text_model_goes_with_encoder(self) -> Self:
        if (self.text == "encoder") != (self.text_model is not None):
            raise ValueError("text_model goes with text: encoder, and only with that")
        return self


class GresoEstimator(Block):
    """Keep probabilities from runs of zero-variance groups (GRESO, arXiv 2506.02177). Not calibrated."""

    type: Literal["greso"] = "greso"
    p_easy: Fraction = 0.5
    """Keep probability after all-right groups, at the start; it adjusts itself."""
    p_hard: Fraction = 0.5
    """The same after all-wrong groups."""
    target_easy: Fraction = 1 / 12
    """Share of all-right groups in a step from which p_easy falls, and below which it rises."""
    target_hard: Fraction = 1 / 6
    """The same of all-wrong groups and p_hard."""
    adjustment: Fraction = 0.01
    """How far p_easy and p_hard move after a step."""
    p_min: Fraction = 0.05
    """Lowest value of p_easy and p_hard."""
    p_max: Fraction = 0.95
    """Highest value of p_easy and p_hard."""

    @model_validator(mode="after")
    def bounds_hold(self) -> Self:
        for name, value in (("p_easy", self.p_easy), ("p_hard", self.p_hard)):
            if not self.p_min <= value <= self.p_max:
                raise ValueError(
                    f"{name} must lie between p_min {self.p_min} and p_max {self.p_max}, found {value}"
                )
        return self


class DpsEstimator(Block):
    """Filter over all wrong, informative and all right, with learned transitions (DPS, arXiv 2603.10887)."""

    type: Literal["dps"] = "dps"
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
    live: bool = False
    """Ask the policy at each round: the probability of the gold answer by teacher forcing, for data with one
    exact answer."""


class DepoEstimator(Block):
    """DEPO's difficulty estimator (arXiv 2602.06375): a pretrained encoder with two heads, trained online.

    Null means: as the preset has it. The presets and the reasons are in `estimators/encoder_options.py`.
    """

    type: Literal["depo"] = "depo"
    model: str
    """BERT-family encoder: Hugging Face id or local directory (`depo fetch minilm DIR`)."""
    preset: Literal["paper", "repaired"] = "paper"
    """``paper``: as published. ``repaired``: replay, beta-binomial likelihood, a lighter ranking per pair in
    logits on pairs beyond chance, no dropout, both ends of long prompts, embeddings of several layers,
    n-grams beside them, predictions with averaged weights."""
    max_length: Annotated[int, Field(ge=3)] = 512
    """Tokens read of a prompt."""
    truncation: Literal["right", "middle"] | None = None
    """What a longer prompt loses: its end, or its middle."""
    frozen: bool = False
    """Train trunk and heads only; each prompt is then read once."""
    trained_layers: NonNegativeInt | None = None
    """Upper layers of the backbone that are trained; 0 in both presets: all of it."""
    pooling: Literal["last", "spread"] | None = None
    """Token means of the last layer, or of three layers, side by side."""
    words: bool | None = None
    """Add a linear function of hashed n-grams to what the heads say."""
    words_rate: PositiveFloat | None = None
    """Learning rate (AdaGrad) of that linear function; 0.05 in both presets."""
    averaging: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Predictions use a running average of the weights, with this decay per step; 0: they do not."""
    likelihood: Literal["bce", "beta_binomial"] | None = None
    """Loss of the pass-rate head."""
    distillation_weight: NonNegativeFloat | None = None
    """Weight of the loss on exp(mean token log-probability); 0.5 in both presets."""
    ranking_weight: NonNegativeFloat | None = None
    """Weight of the ranking loss; 3 in ``paper``, 0.5 in ``repaired``."""
    ranking_margin: NonNegativeFloat | None = None
    """By how much the easier prompt of a pair should score higher; 0.5 in both presets."""
    ranking_score: Literal["probability", "logit"] | None = None
    """What the margin is measured in."""
    ranking_min_gap: NonNegativeFloat | None = None
    """Only pairs whose observed rates differ by more are ranked; 0.05 in both presets."""
    ranking_gap: Literal["fixed", "confident"] | None = None
    """``confident``: the rates must also differ by more than one rollout and one standard error."""
    ranking_reduction: Literal["micro_batch", "pairs"] | None = None
    """Sum over the pairs of a micro-batch, per prompt; or mean over all pairs of the step."""
    dropout: Literal["on", "ranking_off", "off"] | None = None
    """In training. ``ranking_off``: a second pass without dropout, for the ranking alone."""
    steps: PositiveInt | None = None
    """Optimizer steps per batch of groups."""
    replay: NonNegativeInt | None = None
    """Older groups added to each step."""
    memory: PositiveInt | None = None
    """Groups kept for replay; 8192 in both presets."""
    learning_rate: PositiveFloat | None = None
    """Learning rate of trunk and heads (AdamW); 2e-4 in both presets."""
    backbone_rate: Fraction | None = None
    """Learning rate of the backbone as a share of that; 1/5 in both presets."""
    weight_decay: NonNegativeFloat | None = None
    """AdamW's; 0.01 in both presets."""
    micro_batch: PositiveInt = 32
    """Prompts per forward and backward pass."""
    blocks: PositiveInt | None = None
    """Residual blocks of the trunk."""
    concentration: PositiveFloat | None = None
    """Pseudo-rollouts that a prediction is worth before any was compared with an outcome."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the backbone's matrix products; weights are float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the encoder works; auto: cuda where there is one."""
    seed: NonNegativeInt = 0
    """Initial weights and the draws in training are keyed by it."""


class PluginEstimator(Block):
    """An estimator registered by a package under the entry-point group ``depo.estimators``."""

    type: Literal["plugin"] = "plugin"
    name: str
    """Name of the entry point."""
    options: dict[str, Any] = {}
    """What the estimator takes as keywords."""


EstimatorSpec = Annotated[
    UniformEstimator
    | DepoEstimator
    | MoppsEstimator
    | GresoEstimator
    | DpsEstimator
    | HybridEstimator
    | OracleEstimator
    | PluginEstimator,
    Field(discriminator="type"),
]
