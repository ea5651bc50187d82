"""Which mixture a dense architecture becomes: the one whose attention is the same.

qwen3            → qwen3_moe   (norms on queries and keys, biases if the dense model has them)
llama, mistral   → mixtral     (no norms, no biases)
"""

from __future__ import annotations

from typing import Any

from transformers import MixtralConfig, PretrainedConfig, Qwen3MoeConfig

from depo.errors import UserError
from depo.upcycle.settings import Upcycling, check_slices

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
