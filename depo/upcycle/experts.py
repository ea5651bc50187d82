"""One dense feed-forward layer as experts: cut, replicate, draw some dimensions anew, scale.

    dense      y = D (silu(G x) ∘ U x)
    slices     y = Σ_n D_n (silu(G_n x) ∘ U_n x)      the intermediate dimension I cut into N parts
    mixture    y = Σ_e w_e E_e(x),  w_e = 1/(N·M)     M replicas of each slice, a router that knows nothing

Each slice appears M times with weight 1/(N·M), so the mixture computes y/N: an expert has to be N times
its slice. *exact* puts √N on U and √N on D and leaves G alone, because silu is not homogeneous: silu(a·z)
is not a·silu(z). *marco* puts N^(1/3) on each of the three, which makes N only where silu is linear.
With K < N·M experts active, renormalised weights average 1/K, and the mixture equals y only on average,
unless the router is *grouped*: all slices of a replica share one row of it (the virtual groups of arXiv
2410.07524), so with K = N a token gets each slice once, with weight 1/N, and the mixture equals y.

Shapes: E = N·M experts, S = I/N dimensions of a slice, H hidden size. Expert e is a replica of slice e % N.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from depo.upcycle.settings import Upcycling


@dataclass(slots=True)
class Experts:
    """Weights of one layer's experts, laid out as ``torch.nn.functional.linear`` takes them, each."""

    gate_ESH: Tensor
    up_ESH: Tensor
    down_EHS: Tensor


def split(gate_IH: Tensor, up_IH: Tensor, down_HI: Tensor, slices: int, replicas: int) -> Experts:
    """Consecutive runs of the intermediate dimension, in order, the whole row of them ``replicas`` times."""
    return Experts(
        gate_ESH=torch.stack(gate_IH.chunk(slices)).repeat(replicas, 1, 1),
        up_ESH=torch.stack(up_IH.chunk(slices)).repeat(replicas, 1, 1),
        down_EHS=torch.stack(down_HI.chunk(slices, dim=1)).repeat(replicas, 1, 1),
    )


def reinitialise(experts: Experts, share: float, stream: torch.Generator) -> None:
    """Drop-Upcycling (arXiv 2502.19261, section 3), in place: in each expert a random ``share`` of the
    intermediate dimensions, the same ones in gate, up and down, is drawn anew from the normal distribution
    with the mean and standard deviation of the weights that go, matrix by matrix."""
    count, size, _ = experts.gate_ESH.shape
    dropped = round(share * size)
    if dropped == 0:
        return
    for e in range(count):
        chosen = torch.randperm(size, generator=stream)[:dropped]
        for matrix_SH in (experts.gate_ESH[e], experts.up_ESH[e], experts.down_EHS[e].T):
            gone = matrix_SH[chosen]
            noise = torch.randn(gone.shape, generator=stream, dtype=gone.dtype)
            matrix_SH[chosen] = gone.mean() + gone.std(correction=0) * noise


def scale(experts: Experts, slices: int, scaling: str) -> None:
    """Make each expert N times its slice, in place; see above."""
    if scaling == "exact":
        experts.up_ESH *= slices**0.5
        experts.down_EHS *= slices**0.5
    else:
        for weight in (experts.gate_ESH, experts.up_ESH, experts.down_EHS):
            weight *= slices ** (1 / 3)


def make_experts(
    gate_IH: Tensor, up_IH: Tensor, down_HI: Tensor, settings: Upcycling, stream: torch.Generator
) -> Experts:
    """The experts of one layer, float32 copies; the dense weights are only read."""
    experts = split(
        gate_IH.float().cpu(), up_IH.float().cpu(), down_HI.float().cpu(), settings.slices, settings.replicas
    )
    reinitialise(experts, settings.drop, stream)
    scale(experts, settings.slices, settings.scaling)
    return experts


def make_router(settings: Upcycling, hidden_size: int, stream: torch.Generator) -> Tensor:
    """Router weights (E, H)."""
    if settings.router == "random":
        rows_EH = torch.randn(settings.experts, hidden_size, generator=stream)
    else:
        rows_EH = torch.randn(settings.replicas, hidden_size, generator=stream)
        rows_EH = rows_EH.repeat_interleave(settings.slices, dim=0)
    return rows_EH * settings.router_std
