"""How far a mixture is from the dense model it was made of, on text. T tokens of a passage, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Means over all positions unless stated; logits as they are, KL in nats."""

    tokens: int
    logit_error_max: float
    logit_error_mean: float
    kl: float
    """KL(dense ‖ mixture) of the next-token distributions."""
    kl_max: float
    same_top_token: float
    """Share of positions with the same most likely token."""


@torch.no_grad()
def fidelity(dense: PreTrainedModel, moe: PreTrainedModel, passages: Sequence[Tensor]) -> Fidelity:
    """Compare the two, which are on one device, on passages of token ids (T,), each alone."""
    errors, divergences, agreements = [], [], []
    for tokens_T in passages:
        tokens_1T = tokens_T.unsqueeze(0).to(dense.device)
        dense_TV = dense(input_ids=tokens_1T).logits[0].double()
        moe_TV = moe(input_ids=tokens_1T).logits[0].double()
        errors.append((dense_TV - moe_TV).abs())
        divergences.append(kl_divergence(dense_TV, moe_TV))
        agreements.append(dense_TV.argmax(-1) == moe_TV.argmax(-1))
    kl_M = torch.cat(divergences)
    return Fidelity(
        tokens=len(kl_M),
        logit_error_max=max(float(error.max()) for error in errors),
        logit_error_mean=sum(float(error.sum()) for error in errors) / sum(error.numel() for error in errors),
        kl=float(kl_M.mean()),
        kl_max=float(kl_M.max()),
        same_top_token=float(torch.cat(agreements).double().mean()),
    )


def kl_divergence(target_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(target ‖ other) in nats over the last dimension, one number for each position."""
    target = target_logits.log_softmax(-1)
    return (target.exp() * (target - logits.log_softmax(-1))).sum(-1)
