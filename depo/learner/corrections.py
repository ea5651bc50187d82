"""Corrections for the mismatch between engine and learner, which compute the same policy with other kernels.

Shapes: N samples of the batch, B samples, T trained tokens of a sample (right padded), M of all N.

Each token's loss is multiplied by a weight made of the ratio exp(old − engine).

    correction   weight
    none         1
    tis          the ratio, at most ``cap`` (truncated importance sampling)
    mis          the ratio; 0 above ``cap`` (masked importance sampling)
    icepop       the ratio; 0 outside [``low``, ``high``]
    kpop         the ratio; 0 where the binary KL exceeds ``max_kl`` in either direction

A package adds one of its own as an entry point of the group ``depo.corrections``: a function that takes the
recipe's options as keywords and returns a ``Correction``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from depo import plugins
from depo.learner.loss import k3
from depo.learner.packing import pad_values
from depo.recipe import schema

Correction = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(old log-probabilities of the learner, those of the engine, mask; (B, T) each, without gradients) → weight
of each token (B, T), and where (bool) the correction changed the ratio. On padding both mean nothing."""


def none() -> Correction:
    """Trust the engine's distribution to be the learner's."""
    return lambda old, engine, mask: (torch.ones_like(old), torch.zeros_like(old, dtype=torch.bool))


def tis(cap: float) -> Correction:
    def truncated(old: Tensor, engine: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        ratio = torch.exp(old - engine)
        return ratio.clamp(max=cap), ratio > cap

    return truncated


def mis(cap: float) -> Correction:
    return dropping(lambda ratio, old, engine: ratio > cap)


def icepop(low: float, high: float) -> Correction:
    return dropping(lambda ratio, old, engine: (ratio < low) | (ratio > high))


def kpop(max_kl: float) -> Correction:
    return dropping(
        lambda ratio, old, engine: (binary_kl(old, engine) > max_kl) | (binary_kl(engine, old) > max_kl)
    )


GROUP = "depo.corrections"
BUILT_IN = {name: f"depo.learner.corrections:{name}" for name in ("none", "tis", "mis", "icepop", "kpop")}


def build_correction(spec: schema.Correction) -> Correction:
    """Raises ValueError for a plugin that is not there or does not take its options."""
    return cast(Correction, plugins.build(GROUP, BUILT_IN, spec.model_dump()))


def dropping(cut: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Correction:
    """The ratio, and 0 where ``cut(ratio, old, engine)`` is True."""

    def masked(old: Tensor, engine: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        ratio = torch.exp(old - engine)
        dropped = cut(ratio, old, engine)
        return ratio.masked_fill(dropped, 0.0), dropped

    return masked


def binary_kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first ‖ second) in nats between two beliefs that a token comes, p and q against 1 − p and 1 − q,
    from log p and log q: p log(p/q) + (1 − p) log((1 − p)/(1 − q)).

    Probabilities end 2^-24 below 1, float32's own resolution there: rounding to 1 must not make it infinite.
    """
    log_p, log_q = first.clamp(max=-(2.0**-24)), second.clamp(max=-(2.0**-24))
    rest_p = -torch.expm1(log_p)
    log_rest_ratio = torch.log(rest_p) - torch.log(-torch.expm1(log_q))
    return log_p.exp() * (log_p - log_q) + rest_p * log_rest_ratio


def mismatch(
    correction: Correction, old: Sequence[np.ndarray], engine: Sequence[np.ndarray]
) -> dict[str, float]:
    """How far learner and engine are apart on the trained tokens, and what the correction made of it."""
    lengths_N = torch.tensor([len(row) for row in old])
    mask_NT = torch.arange(int(lengths_N.max())) < lengths_N.unsqueeze(1)
    old_NT, engine_NT = pad_values(old, mask_NT).double(), pad_values(engine, mask_NT).double()
    weights_NT, cut_NT = correction(old_NT, engine_NT, mask_NT)
    difference_M = (old_NT - engine_NT)[mask_NT]
    return {
        "mismatch_kl": float(k3(difference_M).mean()),
        "mismatch_max": float(difference_M.abs().max()),
        "correction_mean": float(weights_NT[mask_NT].mean()),
        "correction_cut": float(cut_NT[mask_NT].double().mean()),
    }
