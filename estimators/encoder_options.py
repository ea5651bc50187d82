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

Tried on recorded first visits (even keys) and not kept, as zero variance was ranked no better: a head for the
three outcomes of a group in place of the beta-binomial, targets smoothed by what another group would show,
ranking informative groups above the others. Replay ranks as well as a single pass does there, at twice the
cost.

``micro_batch`` and ``probability`` are our reading of how the published hinge is reduced and of what it
compares. Weights and optimizer state are float32 under both: bfloat16 has 8 bits of precision, so that the
backbone's AdamW step of 4e-5 rounds to nothing on any weight above about 0.02.

The published warm-up, accepting every prompt at first, is not here but in ``selection.warmup_steps``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """The defaults are the paper's. Raises ValueError for values that make no sense."""

    model: str
    """Hugging Face id or local directory of a BERT-family encoder."""
    max_length: int = 512
    """Tokens read of a prompt, its two special tokens included."""
    truncation: str = "right"
    """What longer prompts lose: ``right``, their end, or ``middle``, so that both ends stay."""
    trained_layers: int = 0
    """Train this many of the backbone's upper layers only, at a fraction of the cost; 0: all of it."""
    pooling: str = "last"
    """Whose token means are the prompt's embedding: the ``last`` layer's, or ``spread``, those of the layers
    one third, two thirds and all the way up, side by side."""
    words: bool = False
    """Add a linear function of hashed n-grams to the logit of the rate and to the log concentration."""
    words_rate: float = 0.05
    """AdaGrad's learning rate for it."""
    frozen: bool = False
    """Train trunk and heads only; the backbone's embeddings are then computed once per prompt."""
    likelihood: str = "bce"
    """``bce``: cross-entropy on the rate k/n. ``beta_binomial``: likelihood of k of n, with a concentration
    that the network predicts as well."""
    distillation_weight: float = 0.5
    """Of the cross-entropy on exp(mean token log-probability)."""
    ranking_weight: float = 3.0
    ranking_margin: float = 0.5
    ranking_score: str = "probability"
    """What the margin is measured in: ``probability`` or ``logit``."""
    ranking_min_gap: float = 0.05
    """Pairs whose observed rates differ by more than this are ranked."""
    ranking_gap: str = "fixed"
    """``confident``: the gap must also exceed 1/n and its own standard error."""
    ranking_reduction: str = "micro_batch"
    """``micro_batch``: hinges of the pairs within a micro-batch, summed, per row. ``pairs``: the mean over
    all pairs of the step, whatever the micro-batch."""
    dropout: str = "on"
    """``on``, ``off``, or ``ranking_off``: off in a second forward pass that only the ranking uses."""
    steps: int = 1
    """Optimizer steps per batch of observed groups."""
    replay: int = 0
    """Older groups drawn afresh and added to the new ones at each step."""
    memory: int = 8192
    """Groups kept to draw from."""
    learning_rate: float = 2e-4
    backbone_rate: float = 0.2
    """Learning rate of the backbone, as a share of that of trunk and heads."""
    weight_decay: float = 0.01
    averaging: float = 0.0
    """Decay per step of the running average of the weights that predictions are made with; 0: none."""
    micro_batch: int = 32
    """Prompts per forward and backward pass."""
    blocks: int = 2
    """Residual blocks of the trunk."""
    concentration: float = 2.0
    """The belief's concentration before any group was predicted and seen. With ``beta_binomial`` a factor on
    what the network says starts from 1 instead."""
    precision: str = "float32"
    """``bfloat16``: matrix products in bfloat16, weights in float32 all the same."""
    device: str = "auto"
    """``cpu``, ``cuda``, or ``auto``: cuda where there is one."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"encoder: {name} must be one of {', '.join(allowed)}, found {getattr(self, name)!r}"
                )
        for name, least in LEAST.items():
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"encoder: {name} must be at least {least}, found {getattr(self, name)}")
        for name in ("learning_rate", "words_rate", "concentration"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"encoder: {name} must be positive, found {getattr(self, name)}")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"encoder: averaging must lie in [0, 1), found {self.averaging}")
        if self.replay and not self.memory:
            raise ValueError("encoder: replay needs a memory of at least 1 group")


CHOICES = {
    "truncation": ("right", "middle"),
    "pooling": ("last", "spread"),
    "likelihood": ("bce", "beta_binomial"),
    "ranking_score": ("probability", "logit"),
    "ranking_gap": ("fixed", "confident"),
    "ranking_reduction": ("micro_batch", "pairs"),
    "dropout": ("on", "ranking_off", "off"),
    "precision": ("float32", "bfloat16"),
    "device": ("auto", "cpu", "cuda"),
}

LEAST = {
    "max_length": 3,
    "trained_layers": 0,
    "distillation_weight": 0,
    "ranking_weight": 0,
    "ranking_margin": 0,
    "ranking_min_gap": 0,
    "steps": 1,
    "replay": 0,
    "memory": 0,
    "backbone_rate": 0,
    "weight_decay": 0,
    "micro_batch": 1,
    "blocks": 1,
    "seed": 0,
}

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

    Raises ValueError for an unknown preset, an unknown or missing option, and values that make no sense.
    """
    if preset not in PRESETS:
        raise ValueError(f"encoder: preset must be one of {', '.join(PRESETS)}, found {preset!r}")
    given = {name: value for name, value in explicit.items() if value is not None}
    unknown = given.keys() - {field.name for field in fields(EncoderOptions)}
    if unknown:
        raise ValueError(f"encoder: unknown option {', '.join(sorted(unknown))}")
    if "model" not in given:
        raise ValueError("encoder: model is missing; name a Hugging Face id or a directory")
    return EncoderOptions(**{**PRESETS[preset], **given})
