"""What can be set about the encoder, under two presets.

``paper`` does what arXiv 2602.06375 says. ``repaired`` keeps the method (encoder, residual trunk, two heads,
three losses, AdamW with a slower backbone) and changes what costs it accuracy:

| option | paper | repaired | why |
|---|---|---|---|
| ``replay`` | 0 | 64 | a batch is thrown away after one small step |
| ``likelihood`` | bce | beta_binomial | counts of G rollouts scatter more than a coin's |
| ``ranking_reduction`` | micro_batch | pairs | the ranking's weight grew with the micro-batch |
| ``ranking_weight`` | 3 | 0.5 | at 3 the ranking outweighs the likelihood, which knows the chances |
| ``ranking_score`` | probability | logit | a margin of 0.5 between rates that differ by 0.05 cannot be met |
| ``ranking_gap`` | fixed | confident | a gap below 1/G makes one rollout's luck a pair |
| ``dropout`` | on | off | its noise is as large as the differences that the ranking learns from |
| ``truncation`` | right | middle | a long prompt ends with its question |
| ``pooling`` | last | spread | the last layer was trained for meaning; how hard shows in the middle too |
| ``words`` | off | on | which words go with failure takes fewer groups to learn than a sense of sentences |
| ``averaging`` | 0 | 0.98 | the last steps of a single pass are mostly noise |

``micro_batch`` and ``probability`` are our reading of how the published hinge is reduced and of what it
compares. Weights and optimizer state are float32 under both: bfloat16 has 8 bits of precision, so that the
backbone's AdamW step of 4e-5 rounds to nothing on any weight above about 0.02.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Whole = Annotated[int, Field(strict=True, ge=1, le=10**9)]
WholeOrZero = Annotated[int, Field(strict=True, ge=0, le=10**9)]
Positive = Annotated[float, Field(strict=True, ge=1e-30, le=1e9)]
NonNegative = Annotated[float, Field(strict=True, ge=0, le=1e9)]


class EncoderSetup(BaseModel):
    """What no preset says anything about."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    model: str
    """BERT-family encoder: Hugging Face id or local directory (`depo fetch minilm DIR`)."""
    max_length: Annotated[int, Field(strict=True, ge=3, le=10**6)] = 512
    """Tokens read of a prompt, its two special tokens included."""
    frozen: bool = False
    """Train trunk and heads only; each prompt is then read once."""
    micro_batch: Whole = 32
    """Prompts per forward and backward pass."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the backbone's matrix products; weights are float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the encoder works; auto: cuda where there is one."""
    seed: WholeOrZero = 0
    """Initial weights and the draws in training are keyed by it."""


class EncoderOptions(EncoderSetup):
    """All options; the defaults are the paper's. They are keys of a recipe too, where null means: as the
    preset has it."""

    truncation: Literal["right", "middle"] = "right"
    """What a longer prompt loses: its end, or its middle."""
    trained_layers: WholeOrZero = 0
    """Upper layers of the backbone that are trained; 0 in both presets: all of it."""
    pooling: Literal["last", "spread"] = "last"
    """Token means of the last layer, or of those one third, two thirds and all the way up, side by side."""
    words: bool = False
    """Add a linear function of hashed n-grams to what the heads say."""
    words_rate: Positive = 0.05
    """Learning rate (AdaGrad) of that linear function; 0.05 in both presets."""
    averaging: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0
    """Predictions use a running average of the weights, with this decay per step; 0: they do not."""
    likelihood: Literal["bce", "beta_binomial"] = "bce"
    """Loss of the pass-rate head: cross-entropy on the rate k/n, or the likelihood of k of n with a
    concentration that the network predicts as well."""
    distillation_weight: NonNegative = 0.5
    """Weight of the loss on exp(mean token log-probability); 0.5 in both presets."""
    ranking_weight: NonNegative = 3.0
    """Weight of the ranking loss; 3 in ``paper``, 0.5 in ``repaired``."""
    ranking_margin: NonNegative = 0.5
    """By how much the easier prompt of a pair should score higher; 0.5 in both presets."""
    ranking_score: Literal["probability", "logit"] = "probability"
    """What the margin is measured in."""
    ranking_min_gap: NonNegative = 0.05
    """Only pairs whose observed rates differ by more are ranked; 0.05 in both presets."""
    ranking_gap: Literal["fixed", "confident"] = "fixed"
    """``confident``: the rates must also differ by more than one rollout and one standard error."""
    ranking_reduction: Literal["micro_batch", "pairs"] = "micro_batch"
    """Sum over the pairs of a micro-batch, per prompt; or mean over all pairs of the step."""
    dropout: Literal["on", "ranking_off", "off"] = "on"
    """In training. ``ranking_off``: a second pass without dropout, for the ranking alone."""
    steps: Whole = 1
    """Optimizer steps per batch of groups."""
    replay: WholeOrZero = 0
    """Older groups added to each step."""
    memory: Whole = 8192
    """Groups kept for replay; 8192 in both presets."""
    learning_rate: Positive = 2e-4
    """Learning rate of trunk and heads (AdamW); 2e-4 in both presets."""
    backbone_rate: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.2
    """Learning rate of the backbone as a share of that; 1/5 in both presets."""
    weight_decay: NonNegative = 0.01
    """AdamW's; 0.01 in both presets."""
    blocks: Whole = 2
    """Residual blocks of the trunk."""
    concentration: Positive = 2.0
    """Pseudo-rollouts that a prediction is worth before any was compared with an outcome. With
    ``beta_binomial`` a factor on what the network says starts from 1 instead."""


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "repaired": {
        "replay": 64,
        "likelihood": "beta_binomial",
        "ranking_weight": 0.5,
        "ranking_reduction": "pairs",
        "ranking_score": "logit",
        "ranking_gap": "confident",
        "dropout": "off",
        "truncation": "middle",
        "pooling": "spread",
        "words": True,
        "averaging": 0.98,
    },
}


def encoder_options(preset: str, explicit: Mapping[str, Any]) -> EncoderOptions:
    """The preset's options with the explicit ones laid over; None counts as not given.

    Raises ValueError, one line, for an unknown preset, an unknown or missing option, and values that make no
    sense.
    """
    if preset not in PRESETS:
        raise ValueError(f"encoder: preset must be one of {', '.join(PRESETS)}, found {preset!r}")
    given = {name: value for name, value in explicit.items() if value is not None}
    if unknown := given.keys() - EncoderOptions.model_fields.keys():
        raise ValueError(f"encoder: unknown option {', '.join(sorted(unknown))}")
    if "model" not in given:
        raise ValueError("encoder: model is missing; name a Hugging Face id or a directory")
    try:
        return EncoderOptions(**{**PRESETS[preset], **given})
    except ValidationError as error:
        wrong = [f"{one['loc'][0]}: {one['msg']}, found {one['input']!r}" for one in error.errors()]
        raise ValueError(f"encoder: {'; '.join(wrong)}") from error
