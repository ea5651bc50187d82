"""The experts of a mixture on a CPU: tokens sorted by expert once, each expert's run a plain product.

How it differs from transformers' own loop ("eager"):
- weights are unbound once. Indexing them anew for each expert makes the backward pass fill and add up a
  gradient of *all* experts for each one, in every micro-batch: for a million parameters that costs as much
  as several hundred tokens;
- tokens go to their experts and back by a permutation, whose backward pass is a permutation too, instead of
  a scatter with accumulation.

Under bfloat16 autocast, weights are float32 masters. autocast casts those of a linear layer once for as long
as it lasts, but only whole parameters: each expert's slice anew in every pass, which for a decode step of a
few tokens takes longer than its products. ``keep_casts`` does for experts what autocast does for linear
layers.

Shapes: N tokens, K experts of a token, M = N·K pairs, H hidden size, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

NAME = "depo_sorted"


CASTS: ContextVar[dict[nn.Parameter, Tensor] | None] = ContextVar("CASTS", default=None)


@contextmanager
def keep_casts() -> Iterator[None]:
    """Inside, where no weight may change, experts' weights are cast to autocast's type once. That takes the
    memory of a second copy of them, in that type, until the block ends."""
    token = CASTS.set({})
    try:
        yield
    finally:
        CASTS.reset(token)


def as_computed(weight: Tensor) -> Tensor:
    """A weight (E, ·, ·) in the type that autocast would cast it to, kept inside ``keep_casts``; the weight
    itself where gradients are wanted, and where there is no autocast."""
    device, casts = weight.device.type, CASTS.get()
    # What LoRA on experts computes from a parameter is no parameter, and another tensor in every pass.
    fixed = isinstance(weight, nn.Parameter) and not torch.is_grad_enabled()
    if casts is None or not fixed or not torch.is_autocast_enabled(device):
        return weight
    if weight not in casts:
        casts[weight] = weight.to(torch.get_autocast_dtype(device))
    return casts[weight]


class Permute(torch.autograd.Function):
    """Rows in another order; ``inverse`` undoes ``order``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradient.index_select(0, inverse), None, None


def sorted_experts(experts: nn.Module, hidden_NH: Tensor, expert_NK: Tensor, weight_NK: Tensor) -> Tensor:
    """(N, H): the weighted sum of each token's K experts. The signature is transformers'."""
    tokens, per_token = expert_NK.shape
    expert_M = expert_NK.reshape(-1)
    order_M = expert_M.argsort(stable=True)
    inverse_M = torch.empty_like(order_M)
    inverse_M[order_M] = torch.arange(len(order_M), device=order_M.device)
    counts_E = torch.bincount(expert_M, minlength=experts.num_experts).tolist()
    pairs_MH = hidden_NH.unsqueeze(1).expand(-1, per_token, -1).reshape(tokens * per_token, -1)
    sorted_MH = Permute.apply(pairs_MH, order_M, inverse_M)
    gate_up, down = as_computed(experts.gate_up_proj), as_computed(experts.down_proj)
    runs = zip(sorted_MH.split(counts_E), gate_up.unbind(0), down.unbind(0), strict=True)
    outputs = [
        nn.functional.linear(experts._apply_gate(nn.functional.linear(run, gate_up_e)), down_e)
        for run, gate_up_e, down_e in runs
        if len(run)
    ]
    output_MH = Permute.apply(torch.cat(outputs), inverse_M, order_M)
    output_NKH = output_MH.view(tokens, per_token, -1)
    return (output_NKH * weight_NK.unsqueeze(-1)).sum(1).to(hidden_NH.dtype)


def use_sorted_experts(model: nn.Module) -> None:
    """Where the experts are laid out as above (gated, no biases, not transposed), compute them so; "eager"
    otherwise."""
    fits = all(
        module.has_gate and not module.has_bias and not module.is_transposed
        for module in model.modules()
        if hasattr(module, "gate_up_proj") and hasattr(module, "has_gate")
    )
    model.set_experts_implementation(NAME if fits else "eager")


ALL_EXPERTS_FUNCTIONS.register(NAME, sorted_experts)
