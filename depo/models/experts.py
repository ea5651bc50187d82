"""The experts of a mixture, under autocast too: on a CPU tokens sorted by expert once, each expert's run a
plain product; on a GPU transformers' grouped kernel, in the type that autocast computes in.

How the first differs from transformers' own loop ("eager"):
- weights are unbound once. Indexing them anew for each expert makes the backward pass fill and add up a
  gradient of *all* experts for each one, in every micro-batch: for a million parameters that costs as much
  as several hundred tokens;
- tokens go to their experts and back by a permutation, whose backward pass is a permutation too, instead of
  a scatter with accumulation.

Under bfloat16 autocast, weights are float32 masters. autocast casts those of a linear layer once for as long
as it lasts, but only whole parameters: each expert's slice anew in every pass, which for a decode step of a
few tokens takes longer than its products. ``keep_casts`` does for experts what autocast does for linear
layers.

The grouped kernel knows nothing of autocast: it would multiply float32 masters in float32, without tensor
cores and expert by expert, which is most of the work of a mixture.

Shapes: N tokens, K experts of a token, M = N·K pairs, H hidden size, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

NAME = "depo_sorted"

GROUPED = "depo_grouped"

ALIGNED = 8  # dimensions, which in bfloat16 are the 16 bytes that the grouped kernel wants rows to begin at

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


class Cast:
    """What the grouped kernel's caller reads of the experts, with weights in another type."""

    def __init__(self, experts: nn.Module, dtype: torch.dtype) -> None:
        self.experts = experts
        self.gate_up_proj = as_computed(experts.gate_up_proj).to(dtype)
        self.down_proj = as_computed(experts.down_proj).to(dtype)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.experts, name)


def grouped_experts(experts: nn.Module, hidden_NH: Tensor, expert_NK: Tensor, weight_NK: Tensor) -> Tensor:
    """(N, H), as ``sorted_experts``, by the grouped kernel and in autocast's type where there is autocast."""
    device = hidden_NH.device.type
    if not torch.is_autocast_enabled(device):
        return grouped_mm_experts_forward(experts, hidden_NH, expert_NK, weight_NK)
    dtype = torch.get_autocast_dtype(device)
    cast = Cast(experts, dtype)
    return grouped_mm_experts_forward(cast, hidden_NH.to(dtype), expert_NK, weight_NK).to(hidden_NH.dtype)


def use_sorted_experts(model: nn.Module) -> None:
    """Where the experts are laid out as above, compute them so; "eager" otherwise."""
    model.set_experts_implementation(NAME if all(map(plain, experts_of(model))) else "eager")


def use_grouped_experts(model: nn.Module) -> None:
    """Where the experts are laid out as above, in rows that the kernel takes, compute them so. "eager" for
    rows that it does not take, and the model's own implementation for other layouts."""
    found = experts_of(model)
    aligned = all(size % ALIGNED == 0 for module in found for size in module.down_proj.shape[1:])
    if all(map(plain, found)):
        model.set_experts_implementation(GROUPED if aligned else "eager")


def experts_of(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if hasattr(m, "gate_up_proj") and hasattr(m, "has_gate")]


def plain(experts: nn.Module) -> bool:
    """Gated, no biases, not transposed."""
    return experts.has_gate and not experts.has_bias and not experts.is_transposed


ALL_EXPERTS_FUNCTIONS.register(GROUPED, grouped_experts)


ALL_EXPERTS_FUNCTIONS.register(NAME, sorted_experts)
