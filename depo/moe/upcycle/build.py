"""Which mixture a dense architecture becomes: the one whose attention is the same.

qwen3            → qwen3_moe   (norms on queries and keys, biases if the dense model has them)
llama, mistral   → mixtral     (no norms, no biases)

One dense feed-forward layer as experts: cut, replicate, draw some dimensions anew, scale.

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

The mixture as a transformers model: everything but the feed-forward layers is the dense model's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    MixtralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
)

from depo.errors import UserError
from depo.rng import seed64

TARGETS = {"llama": "mixtral", "mistral": "mixtral", "qwen3": "qwen3_moe"}

SHARED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_parameters",
    "attention_dropout",
    "tie_word_embeddings",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
"""What dense and mixture configurations call by the same name."""

NEAR = 2  # divisors shown on either side of a number of slices that does not divide


@dataclass(frozen=True, slots=True)
class Upcycling:
    """N slices of the feed-forward layer, M replicas of each, K of the N·M experts active per token."""

    slices: int
    replicas: int
    top_k: int
    drop: float
    """Share of an expert's intermediate dimensions that is drawn anew (Drop-Upcycling's r)."""
    scaling: Literal["exact", "marco"]
    router: Literal["random", "grouped"]
    router_std: float
    """Of the router's weights; 0: no expert is preferred."""
    seed: int

    @property
    def experts(self) -> int:
        return self.slices * self.replicas

    @property
    def is_exact(self) -> bool:
        """Whether the mixture computes what the dense model does, up to rounding: every slice is active with
        the same weight."""
        all_active = self.top_k == self.experts and self.router_std == 0
        return self.scaling == "exact" and (all_active or self.router == "grouped") and self.drop == 0


def moe_config(dense: PretrainedConfig, settings: Upcycling, model: str) -> PretrainedConfig:
    """The mixture's configuration. Raises UserError, naming ``model``, for a dense model that has none."""
    check_dense(dense, model)
    check_slices(settings.slices, dense.intermediate_size, model)
    shared: dict[str, Any] = {name: getattr(dense, name) for name in SHARED if hasattr(dense, name)}
    shared |= {
        "num_experts_per_tok": settings.top_k,
        "router_aux_loss_coef": 0.0,
        "output_router_logits": False,
        "dtype": dense.dtype,
    }
    size = dense.intermediate_size // settings.slices
    if TARGETS[dense.model_type] == "mixtral":
        return MixtralConfig(
            **shared,
            num_local_experts=settings.experts,
            intermediate_size=size,
            sliding_window=getattr(dense, "sliding_window", None),
        )
    return Qwen3MoeConfig(
        **shared,
        num_experts=settings.experts,
        moe_intermediate_size=size,
        intermediate_size=dense.intermediate_size,  # of layers without experts, of which there are none
        attention_bias=dense.attention_bias,
        norm_topk_prob=True,  # as Mixtral always does: the weights of the active experts add up to 1
    )


def check_dense(dense: PretrainedConfig, model: str) -> None:
    """Raise UserError for what has no counterpart in the mixture."""
    kind = dense.model_type
    if kind not in TARGETS:
        raise UserError(f"depo upcycle: {model} is a {kind} model; can be upcycled: {', '.join(TARGETS)}")
    if TARGETS[kind] == "mixtral":
        biased = [name for name in ("attention_bias", "mlp_bias") if getattr(dense, name, False)]
        if biased:
            raise UserError(f"depo upcycle: {model} has biases ({', '.join(biased)}), which mixtral has not")
    if getattr(dense, "use_sliding_window", False):
        raise UserError(
            f"depo upcycle: {model} uses a sliding window in some layers, qwen3_moe only in all or none"
        )


def check_slices(slices: int, intermediate_size: int, model: str) -> None:
    """Raise UserError unless ``slices`` cuts the feed-forward layer evenly; it names the nearest that do."""
    if intermediate_size % slices == 0:
        return
    divisors = [n for n in range(1, intermediate_size + 1) if intermediate_size % n == 0]
    below = [n for n in divisors if n < slices][-NEAR:]
    above = [n for n in divisors if n > slices][:NEAR]
    raise UserError(
        f"depo upcycle: --slices {slices} does not divide the {intermediate_size} dimensions of the "
        f"feed-forward layers of {model}; near it: {', '.join(map(str, below + above))}"
    )


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


@torch.no_grad()
def build(dense: PreTrainedModel, settings: Upcycling, name: str) -> PreTrainedModel:
    """The mixture in float32, in evaluation mode; ``name`` of the dense model is for error messages.

    Draws are keyed by (seed, layer). Raises UserError for a model that cannot be upcycled this way.
    """
    config = moe_config(dense.config, settings, name)
    with torch.random.fork_rng(devices=[]):
        moe = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    copy_shared(dense, moe)
    layers = zip(dense.model.layers, moe.model.layers, strict=True)
    for index, (dense_layer, moe_layer) in enumerate(layers):
        stream = torch.Generator().manual_seed(seed64(settings.seed, "upcycle", index=index))
        fill(moe_layer.mlp, dense_layer.mlp, settings, stream)
    moe.generation_config = copy.deepcopy(dense.generation_config)
    return moe.eval()


def fill(block: nn.Module, mlp: nn.Module, settings: Upcycling, stream: torch.Generator) -> None:
    """Experts and router of one layer."""
    experts = make_experts(mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight, settings, stream)
    block.experts.gate_up_proj.copy_(torch.cat([experts.gate_ESH, experts.up_ESH], dim=1))
    block.experts.down_proj.copy_(experts.down_EHS)
    block.gate.weight.copy_(make_router(settings, block.gate.weight.shape[1], stream))


def copy_shared(dense: PreTrainedModel, moe: PreTrainedModel) -> None:
    """Embeddings, attention, norms and head. The two models call them by the same names: checked."""
    source, target = dense.state_dict(), moe.state_dict()
    shared = {key for key in source if ".mlp." not in key}
    differing = shared ^ {key for key in target if ".mlp." not in key}
    if differing:
        raise RuntimeError(f"dense and mixture do not share {', '.join(sorted(differing))}")
    for key in shared:
        target[key].copy_(source[key])
