"""The GRPO family as pure functions of log-probabilities.

Shapes: N samples of a mini-batch, B samples of a micro-batch, T trained tokens of a sample (right padded).

The loss of a mini-batch is a weighted sum over its tokens, ``(weights_BT * per_token_loss_BT).sum()``. The
weights are computed once for the whole mini-batch, so that adding up micro-batches gives the same loss and
the same gradient wherever the mini-batch is cut. Padding carries weight 0.

A ``Loss`` is three choices. Lengths are numbers of trained tokens.

    loss      weight of a token              ratio      clipping
    grpo      1 / (N · length)               token      1 − low … 1 + high
    gspo      1 / (N · length)               sequence   1 − low … 1 + high
    dapo      1 / (tokens of all N)          token      1 − low … 1 + high
    dr_grpo   1 / (N · max_new_tokens)       token      1 − low … 1 + high
    cispo     1 / (tokens of all N)          token      capped and detached

A package adds one of its own as an entry point of the group ``depo.losses``: a function that takes the
recipe's options as keywords and returns a ``Loss``. The recipe names it as ``{type: plugin, name, options}``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from depo import plugins
from depo.recipe import schema

Weights = Callable[[Tensor, int], Tensor]
"""(lengths (N,) float32 of a mini-batch, ``rollout.max_new_tokens``) → weight (N,) of each token of a
sample."""

Ratio = Callable[[Tensor, Tensor], Tensor]
"""(log-ratio to the old policy (B, T), mask (B, T)) → importance ratio (B, T), with its gradient."""

Clip = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(ratio, advantages, log-probabilities; (B, T) each) → loss (B, T), and where (bool) the clip range removed
the gradient or capped the weight."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What a token weighs, what it is compared by, and how that is limited."""

    weights: Weights
    ratio: Ratio
    clip: Clip


def grpo(clip_low: float, clip_high: float) -> Loss:
    """Mean over sequences of the mean over tokens (arXiv 2402.03300, eq. 3)."""
    return Loss(mean_of_means, token_ratio, surrogate(clip_low, clip_high))


def gspo(clip_low: float, clip_high: float) -> Loss:
    """Ratio and clip range of whole sequences (arXiv 2507.18071, eq. 5-7)."""
    return Loss(mean_of_means, sequence_ratio, surrogate(clip_low, clip_high))


def dapo(clip_low: float, clip_high: float) -> Loss:
    """Mean over all tokens, asymmetric clipping (arXiv 2503.14476, eq. 8)."""
    return Loss(mean_of_tokens, token_ratio, surrogate(clip_low, clip_high))


def dr_grpo(clip_low: float, clip_high: float) -> Loss:
    """Sum over tokens by a constant length (arXiv 2503.20783)."""
    return Loss(constant_length, token_ratio, surrogate(clip_low, clip_high))


def cispo(clip_high: float) -> Loss:
    """Capped, detached importance weights on a REINFORCE term (arXiv 2506.13585, eq. 4-5)."""
    return Loss(mean_of_tokens, token_ratio, capped(clip_high))


GROUP = "depo.losses"
BUILT_IN = {name: f"depo.learner.loss:{name}" for name in ("grpo", "gspo", "dapo", "dr_grpo", "cispo")}


def build_loss(spec: schema.Loss) -> Loss:
    """Raises ValueError for a plugin that is not there or does not take its options."""
    return cast(Loss, plugins.build(GROUP, BUILT_IN, spec.model_dump()))


# ---------------------------------------------------------------- weights


def mean_of_means(lengths_N: Tensor, max_new_tokens: int) -> Tensor:
    return 1.0 / (lengths_N.numel() * lengths_N)


def mean_of_tokens(lengths_N: Tensor, max_new_tokens: int) -> Tensor:
    return torch.full_like(lengths_N, 1.0 / float(lengths_N.sum()))


def constant_length(lengths_N: Tensor, max_new_tokens: int) -> Tensor:
    return torch.full_like(lengths_N, 1.0 / (lengths_N.numel() * max_new_tokens))


# ---------------------------------------------------------------- ratio


def token_ratio(log_ratio_BT: Tensor, mask_BT: Tensor) -> Tensor:
    return torch.exp(log_ratio_BT)


def sequence_ratio(log_ratio_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """GSPO's: the geometric mean over a sequence's tokens (arXiv 2507.18071, eq. 7), repeated for each token.
    The gradient is the sequence-level one: it flows through the mean."""
    mean_B1 = (log_ratio_BT * mask_BT).sum(1, keepdim=True) / mask_BT.sum(1, keepdim=True)
    return torch.exp(mean_B1.expand_as(log_ratio_BT))


# ---------------------------------------------------------------- clipping


def surrogate(low: float, high: float) -> Clip:
    """PPO's pessimistic surrogate, negated, with separate lower and upper clip range (DAPO, arXiv 2503.14476,
    eq. 8)."""

    def clip(ratio: Tensor, advantages: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        unclipped = ratio * advantages
        clipped = ratio.clamp(1 - low, 1 + high) * advantages
        outside = ((ratio < 1 - low) & (advantages < 0)) | ((ratio > 1 + high) & (advantages > 0))
        return -torch.minimum(unclipped, clipped), outside

    return clip


def capped(high: float) -> Clip:
    """CISPO's: the ratio, at most ``high``, is a constant weight; every token keeps its gradient."""

    def clip(ratio: Tensor, advantages: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        return -ratio.detach().clamp(max=high) * advantages * logprobs, ratio > high

    return clip


# ---------------------------------------------------------------- the loss of each token


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """``loss_BT`` is meaningless on padding: it has to be weighted. ``clipped_BT`` (bool): see ``Clip``.
    ``kl_BT`` is the k3 estimate of KL(policy ‖ reference), in nats and detached, or None without a
    reference."""

    loss_BT: Tensor
    clipped_BT: Tensor
    kl_BT: Tensor | None


def token_loss(
    loss: Loss,
    *,
    logprobs_BT: Tensor,
    old_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    correction_BT: Tensor,
    reference_BT: Tensor | None = None,
    kl_coef: float = 0.0,
) -> TokenLoss:
    """Loss of each trained token, not yet weighted.

    ``logprobs_BT`` carry the gradient; ``old_BT`` are those before the first optimizer step of this update,
    ``reference_BT`` those of the reference policy. ``correction_BT`` (see ``depo.learner.corrections``)
    multiplies the policy term only and leaves the KL penalty alone, as in TRL.
    """
    ratio_BT = loss.ratio(logprobs_BT - old_BT, mask_BT)
    policy_BT, clipped_BT = loss.clip(ratio_BT, advantages_BT, logprobs_BT)
    loss_BT = policy_BT * correction_BT
    if reference_BT is None:
        return TokenLoss(loss_BT, clipped_BT, None)
    # Times the ratio, whose gradient counts: without it the gradient is not that of KL(policy ‖ reference),
    # not even on policy, where the ratio is 1 (DeepSeek-V3.2, arXiv 2512.02556; TRL's default).
    kl_BT = ratio_BT * k3(reference_BT - logprobs_BT)
    return TokenLoss(loss_BT + kl_coef * kl_BT, clipped_BT, kl_BT.detach())


def k3(log_ratio: Tensor) -> Tensor:
    """Estimator exp(d) − 1 − d of a KL divergence from samples of q, with d = log p − log q: it estimates
    KL(q ‖ p), is unbiased and never negative (Schulman, "Approximating KL divergence")."""
    return torch.expm1(log_ratio) - log_ratio


# ---------------------------------------------------------------- what an update tells


class Tally:
    """Sums over the passes of one update, kept on the device until the end."""

    def __init__(self) -> None:
        self.loss: list[Tensor] = []
        self.sums: dict[str, list[Tensor]] = defaultdict(list)
        self.tokens: list[Tensor] = []
        self.norms: list[float] = []
        self.skipped = 0

    def add_loss(self, loss: Tensor) -> None:
        self.loss.append(loss)

    def add_tokens(self, mask_BT: Tensor, **values_BT: Tensor | None) -> None:
        self.tokens.append(mask_BT.sum())
        for name, value_BT in values_BT.items():
            if value_BT is not None:
                self.sums[name].append((value_BT * mask_BT).sum())

    def add_step(self, norm: float, finite: bool) -> None:
        self.norms.append(norm)
        self.skipped += not finite

    def means(self, total: Callable[[Tensor], Tensor] = lambda value: value) -> dict[str, float]:
        """``total`` adds up over all processes that have a part of the passes."""
        tokens = float(total(torch.stack(self.tokens).sum()))
        means = {
            name: float(total(torch.stack(parts).double().sum())) / tokens
            for name, parts in self.sums.items()
        }
        return means | {
            "loss": float(total(torch.stack(self.loss).double().sum())) / len(self.norms),
            "grad_norm": float(np.mean(self.norms)),
            "optimizer_steps": float(len(self.norms) - self.skipped),
            "skipped_steps": float(self.skipped),
        }
