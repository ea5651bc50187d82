"""How the policy is updated."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from depo.recipe.schema.block import (
    AtMost,
    BelowOne,
    Block,
    CountOrZero,
    Few,
    Many,
    NonNegative,
    Plugin,
    Positive,
    Tokens,
)

CHUNK_LOGITS = 2**24
"""Logits that may exist at once: 64 MiB in float32, small beside any model with a large vocabulary."""

PASS_TOKENS, CUDA_PASS_TOKENS = 128, 1024
"""What a forward and backward pass costs beyond its tokens, in tokens. For a 1.4 M-parameter MoE on one CPU
core, cutting by 64 to 128 was fastest, 2 to 3 % ahead of 256 and 10 % ahead of 512. On a GPU launching a
pass's kernels takes the time of many more tokens; that figure is an estimate, not measured."""


class ClippedLoss(Block):
    clip_low: NonNegative = 0.2
    """The ratio to the old policy is clipped below 1 − clip_low."""
    clip_high: NonNegative = 0.2
    """The ratio to the old policy is clipped above 1 + clip_high."""


class GrpoLoss(ClippedLoss):
    """Mean over sequences of the mean over tokens (arXiv 2402.03300, eq. 3)."""

    type: Literal["grpo"] = "grpo"


class DapoLoss(ClippedLoss):
    """Mean over all tokens, asymmetric clipping (arXiv 2503.14476, eq. 8)."""

    type: Literal["dapo"] = "dapo"
    clip_high: NonNegative = 0.28
    """The ratio to the old policy is clipped above 1 + clip_high."""


class DrGrpoLoss(ClippedLoss):
    """Sum over tokens by a constant length, advantages not scaled (arXiv 2503.20783)."""

    type: Literal["dr_grpo"] = "dr_grpo"


class GspoLoss(Block):
    """Sequence-level ratio and clipping (arXiv 2507.18071, eq. 5–7)."""

    type: Literal["gspo"] = "gspo"
    clip_low: NonNegative = 3e-4
    """A sequence's ratio is clipped below 1 − clip_low."""
    clip_high: NonNegative = 4e-4
    """A sequence's ratio is clipped above 1 + clip_high."""


class CispoLoss(Block):
    """Clipped, detached importance weights on a REINFORCE term (arXiv 2506.13585, eq. 4–5)."""

    type: Literal["cispo"] = "cispo"
    clip_high: Positive = 5.0
    """Largest importance weight (an absolute cap, as in TRL)."""


class PluginLoss(Plugin):
    """A loss that a package registers under the entry-point group ``depo.losses``."""

    group = "depo.losses"


Loss = Annotated[
    GrpoLoss | DapoLoss | DrGrpoLoss | GspoLoss | CispoLoss | PluginLoss, Field(discriminator="type")
]


class NoCorrection(Block):
    """Trust the engine's distribution to be the learner's."""

    type: Literal["none"] = "none"


class TisCorrection(Block):
    """Truncated importance sampling: weight min(ratio, cap), per token."""

    type: Literal["tis"] = "tis"
    cap: Positive = 2.0
    """Largest weight of a token."""


class MisCorrection(Block):
    """Masked importance sampling: weight ratio, or 0 where ratio exceeds the cap, per token."""

    type: Literal["mis"] = "mis"
    cap: Positive = 2.0
    """Largest ratio that keeps its token."""


class IcePopCorrection(Block):
    """IcePop: weight ratio inside [low, high], 0 outside, per token."""

    type: Literal["icepop"] = "icepop"
    low: Positive = 0.5
    """Smallest ratio that keeps its token."""
    high: Positive = 5.0
    """Largest ratio that keeps its token."""

    @model_validator(mode="after")
    def ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be smaller than high {self.high:g}")
        return self


class KPopCorrection(Block):
    """KPop: weight ratio where the binary KL divergence between the learner's and the engine's probability
    of the token is at most ``max_kl`` in both directions, 0 elsewhere, per token."""

    type: Literal["kpop"] = "kpop"
    max_kl: Positive = 0.1
    """Largest binary KL, in nats, of "this token or another one"."""


class PluginCorrection(Plugin):
    """A correction that a package registers under the entry-point group ``depo.corrections``."""

    group = "depo.corrections"


Correction = Annotated[
    NoCorrection | TisCorrection | MisCorrection | IcePopCorrection | KPopCorrection | PluginCorrection,
    Field(discriminator="type"),
]


class GroupBaseline(Block):
    """The mean reward of the group (GRPO, arXiv 2402.03300). Groups that are all right or all wrong teach
    nothing."""

    type: Literal["group"] = "group"
    scale: Literal["group", "batch", "none"] | None = None
    """What reward − baseline is divided by: the standard deviation of the group, that of the whole batch, or
    nothing. null: by the loss (none for dr_grpo, else group)."""


class BeliefBaseline(Block):
    """What the estimator believed when it picked the prompt, together with the other rollouts of the group.
    Every surprise teaches, and groups of 1 or 2 suffice."""

    type: Literal["belief"] = "belief"
    pseudo_rollouts: Positive | Literal["auto"] = "auto"
    """How many rollouts the belief counts beside the siblings. auto: as many as its own uncertainty says."""
    floor: Annotated[float, Field(strict=True, ge=0.01, le=0.5)] = 0.33
    """Smallest standard deviation to divide by, for rewards of 0 and 1."""
    scale: Literal["belief", "batch", "none"] | None = None
    """What reward − baseline is divided by: the standard deviation of the expected pass rate, that of the
    whole batch, or nothing. null: by the loss (none for dr_grpo, else belief)."""


class PluginBaseline(Plugin):
    """Advantages that a package registers under the entry-point group ``depo.advantages``."""

    group = "depo.advantages"


Baseline = Annotated[GroupBaseline | BeliefBaseline | PluginBaseline, Field(discriminator="type")]


class Learner(Block):
    """The update."""

    loss: Loss = DapoLoss()
    """The policy loss."""
    correction: Correction = TisCorrection()
    """Weights of the tokens for the mismatch between engine and learner, by the ratio exp(old − engine)."""
    baseline: Baseline = GroupBaseline()
    """What a rollout's reward is compared with. ``belief`` in the recommended method (see
    ``estimator``)."""
    min_advantage: NonNegative = 0.0
    """Of rollouts with an advantage A smaller than this, on either side, only a share |A| / min_advantage is
    trained on, with an advantage of this size: less work for the same update in the mean. A group of which
    nothing is trained on is not informative. 0.5 in the recommended method."""
    zero_variance: Literal["exclude", "include"] = "exclude"
    """Whether zero-variance groups count in the loss's denominator ("include" is TRL's behaviour)."""
    lr: Annotated[Positive, AtMost(1000, "no training survives it")] = 1e-6
    """Learning rate of AdamW, after the warm-up."""
    warmup_steps: CountOrZero = 0
    """Linear learning-rate warm-up, in steps."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after the warm-up, over the run's steps."""
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    """AdamW's decay of the first and the second moment."""
    weight_decay: NonNegative = 0.0
    """AdamW's; norms and biases are not decayed."""
    max_grad_norm: Positive = 1.0
    """A gradient with a larger norm is scaled down to this norm."""
    epochs: Few = 1
    """Passes over the batch per step."""
    minibatches: Many = 1
    """Optimizer steps per pass."""
    tokens_per_microbatch: Tokens = 16_384
    """Tokens of one forward and backward pass, at most."""
    packing: bool = True
    """Compute no padding, and a prompt once for all of its completions, where the model can."""
    kl_coef: NonNegative = 0.0
    """Weight of the k3 KL penalty to the initial policy; 0 needs no reference policy."""
    routing_replay: Literal["none", "r2", "r3"] = "none"
    """Experts forced in the update's passes of a mixture of experts: none; those of the old-policy forward
    pass (r2); those the rollout engine took (r3). Indices are forced, weights stay the router's."""
    routing_telemetry: bool = True
    """Watch expert load, router entropy and routing agreement where the policy is a mixture of experts."""
    load_balancing_coef: NonNegative = 0.0
    """Weight of a mixture's load-balancing loss; 0: none, whatever the model's own config says."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the learner works; auto: cuda where there is one."""
    ranks: Few = 1
    """Processes that share the work, and each of which keeps a part of weights and optimizer state (FSDP2); a
    GPU each, or a CPU core each where there is none. They compute what one does, up to rounding."""

    @property
    def advantages(self) -> dict[str, Any]:
        """What ``depo.learner.advantages.build_advantages`` takes."""
        spec = self.baseline.model_dump()
        if "scale" in spec and spec["scale"] is None:
            spec["scale"] = "none" if self.loss.type == "dr_grpo" else self.baseline.type
        return spec


class Batch(Block):
    """What one step trains on."""

    prompts: Many = 64
    """Groups a step; 256 in the recommended method, unless ``group_size`` is set."""
    group_size: Few = 8
    """Rollouts per group; 1 needs learner.baseline belief; 2 in the recommended method."""
