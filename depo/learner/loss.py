"""The GRPO family as pure functions of log-probabilities.

Shapes: N sequences of a mini-batch, B sequences of a micro-batch, T completion tokens (right padded).

The loss of a mini-batch is a weighted sum over its tokens, ``(weights_BT * per_token_loss_BT).sum()``. The
weights are computed once for the whole mini-batch, so that adding up micro-batches gives the same loss and
the same gradient wherever the mini-batch is cut. Padding carries weight 0.

    loss      weight of a token              ratio      clipping
    grpo      1 / (N · length)               token      1 − low … 1 + high
    gspo      1 / (N · length)               sequence   1 − low … 1 + high
    dapo      1 / (tokens of all N)          token      1 − low … 1 + high
    dr_grpo   1 / (N · max_new_tokens)       token      1 − low … 1 + high
    cispo     1 / (tokens of all N)          token      capped and detached
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from depo.recipe import schema


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """``loss_BT`` is meaningless on padding: it has to be weighted. ``clipped_BT`` (bool) marks tokens whose
    gradient the clip range removed (for cispo: whose weight was capped). ``kl_BT`` is the k3 estimate of
    KL(policy ‖ reference), in nats and detached, or None without a reference."""

    loss_BT: Tensor
    clipped_BT: Tensor
    kl_BT: Tensor | None


def token_weights(loss: schema.Loss, lengths_N: Tensor, max_new_tokens: int) -> Tensor:
    """The weight (N,) that each token of a sequence has in the mini-batch's loss.

    ``lengths_N`` are completion lengths in tokens, at least 1. ``max_new_tokens`` is Dr. GRPO's constant.
    """
    lengths_N = lengths_N.to(torch.float32)
    sequences = lengths_N.numel()
    if isinstance(loss, schema.GrpoLoss | schema.GspoLoss):
        return 1.0 / (sequences * lengths_N)
    if isinstance(loss, schema.DapoLoss | schema.CispoLoss):
        return torch.full_like(lengths_N, 1.0 / float(lengths_N.sum()))
    return torch.full_like(lengths_N, 1.0 / (sequences * max_new_tokens))


def token_loss(
    loss: schema.Loss,
    *,
    logprobs_BT: Tensor,
    old_BT: Tensor,
    advantages_B: Tensor,
    mask_BT: Tensor,
    correction_BT: Tensor,
    reference_BT: Tensor | None = None,
    kl_coef: float = 0.0,
) -> TokenLoss:
    """Loss of each completion token, not yet weighted.

    ``logprobs_BT`` carry the gradient; ``old_BT`` are those before the first optimizer step of this update,
    ``reference_BT`` those of the reference policy. ``correction_BT`` (see ``correction_weights``) multiplies
    the policy term only and leaves the KL penalty alone, as in TRL.
    """
    advantages_B1 = advantages_B.unsqueeze(1)
    log_ratio_BT = logprobs_BT - old_BT
    if isinstance(loss, schema.GspoLoss):
        log_ratio_BT = sequence_mean(log_ratio_BT, mask_BT)
    ratio_BT = torch.exp(log_ratio_BT)
    if isinstance(loss, schema.CispoLoss):
        # arXiv 2506.13585, eq. 4-5: the capped weight is a constant, every token keeps its gradient.
        policy_BT = -ratio_BT.detach().clamp(max=loss.clip_high) * advantages_B1 * logprobs_BT
        clipped_BT = ratio_BT > loss.clip_high
    else:
        policy_BT, clipped_BT = clipped_surrogate(ratio_BT, advantages_B1, loss.clip_low, loss.clip_high)
    loss_BT = policy_BT * correction_BT
    if reference_BT is None:
        return TokenLoss(loss_BT, clipped_BT, None)
    # Times the ratio, whose gradient counts: without it the gradient is not that of KL(policy ‖ reference),
    # not even on policy, where the ratio is 1 (DeepSeek-V3.2, arXiv 2512.02556; TRL's default).
    kl_BT = ratio_BT * k3(reference_BT - logprobs_BT)
    return TokenLoss(loss_BT + kl_coef * kl_BT, clipped_BT, kl_BT.detach())


def clipped_surrogate(ratio: Tensor, advantages: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """PPO's pessimistic surrogate, negated, with separate lower and upper clip range (DAPO, arXiv 2503.14476,
    eq. 8), and where the clip range took the gradient away. Shapes broadcast."""
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - low, 1 + high) * advantages
    outside = ((ratio < 1 - low) & (advantages < 0)) | ((ratio > 1 + high) & (advantages > 0))
    return -torch.minimum(unclipped, clipped), outside


def sequence_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """GSPO's sequence-level log-ratio, the mean over a sequence's tokens (arXiv 2507.18071, eq. 7), repeated
    for each token (B, T). The gradient is the sequence-level one: it flows through the mean."""
    mean_B1 = (values_BT * mask_BT).sum(1, keepdim=True) / mask_BT.sum(1, keepdim=True)
    return mean_B1.expand_as(values_BT)


def k3(log_ratio: Tensor) -> Tensor:
    """Estimator exp(d) − 1 − d of a KL divergence from samples of q, with d = log p − log q: it estimates
    KL(q ‖ p), is unbiased and never negative (Schulman, "Approximating KL divergence")."""
    return torch.expm1(log_ratio) - log_ratio


def correction_weights(
    correction: schema.Correction, old_BT: Tensor, engine_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """Weight of each token for the mismatch between engine and learner, and where it was cut (bool).

    The ratio is exp(old − engine), detached. TIS truncates it at ``cap``; masked importance sampling
    (MIS) drops the token above ``cap``; IcePop drops it outside [low, high]; KPop where the binary KL exceeds
    ``max_kl`` in either direction; "none" leaves 1 everywhere. What is not dropped keeps its ratio.
    """
    ratio_BT = torch.exp(old_BT.detach() - engine_BT)
    if isinstance(correction, schema.TisCorrection):
        return ratio_BT.clamp(max=correction.cap), ratio_BT > correction.cap
    if isinstance(correction, schema.MisCorrection):
        cut_BT = ratio_BT > correction.cap
        return ratio_BT.masked_fill(cut_BT, 0.0), cut_BT
    if isinstance(correction, schema.IcePopCorrection):
        cut_BT = (ratio_BT < correction.low) | (ratio_BT > correction.high)
        return ratio_BT.masked_fill(cut_BT, 0.0), cut_BT
    if isinstance(correction, schema.KPopCorrection):
        cut_BT = binary_kl(old_BT.detach(), engine_BT) > correction.max_kl
        cut_BT |= binary_kl(engine_BT, old_BT.detach()) > correction.max_kl
        return ratio_BT.masked_fill(cut_BT, 0.0), cut_BT
    return torch.ones_like(ratio_BT), torch.zeros_like(ratio_BT, dtype=torch.bool)


def binary_kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first ‖ second) in nats between two beliefs that a token comes, p and q against 1 − p and 1 − q,
    from log p and log q: p log(p/q) + (1 − p) log((1 − p)/(1 − q)).

    Probabilities end 2^-24 below 1, float32's own resolution there: rounding to 1 must not make it infinite.
    """
    log_p, log_q = first.clamp(max=-(2.0**-24)), second.clamp(max=-(2.0**-24))
    rest_p = -torch.expm1(log_p)
    log_rest_ratio = torch.log(rest_p) - torch.log(-torch.expm1(log_q))
    return log_p.exp() * (log_p - log_q) + rest_p * log_rest_ratio
