"""A model's size and shape from its ``config.json``, without torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depo.errors import UserError

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
"""``organisation/name``, or a bare name for the hub's oldest models."""


def is_path(model: str) -> bool:
    """Whether ``policy.model`` names a local directory rather than a model of the hub."""
    if model.startswith(("/", "./", "../", "~")) or model in (".", ".."):
        return True
    path = Path(model)
    return path.exists() or (path.parent.exists() and not HUB_ID.match(model))


def find_config(model: str, revision: str | None = None) -> dict[str, Any] | None:
    """The text model's configuration, or None where it is not at hand (a hub model never downloaded).

    Never touches the network. Raises UserError for a file that is not JSON.
    """
    directory = config_directory(model, revision)
    if directory is None:
        return None
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"policy.model: {path} is not readable JSON ({error})") from error
    if not isinstance(config, dict):
        raise UserError(f"policy.model: {path} must hold a JSON object")
    return config.get("text_config", config)


def positions(config: Mapping[str, Any]) -> int | None:
    """Longest sequence, in tokens, that the model takes: ``max_position_embeddings``, or what scaled rotary
    embeddings make of the length it was trained on, if that is more. None: the configuration does not say."""
    found = config.get("max_position_embeddings")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    trained, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
    if isinstance(trained, int) and isinstance(factor, int | float):
        return max(found or 0, int(trained * factor))
    return found if isinstance(found, int) else None


def config_directory(model: str, revision: str | None = None) -> Path | None:
    """The local directory that holds the model's config.json, None where there is none."""
    directory = Path(model) if is_path(model) else cached_snapshot(model, revision)
    return directory if directory is not None and (directory / "config.json").is_file() else None


def cached_snapshot(model: str, revision: str | None = None) -> Path | None:
    """Where the hub's cache keeps a model, if it does (layout: huggingface_hub, "Understand caching")."""
    repository = hub_cache() / ("models--" + model.replace("/", "--"))
    ref = repository / "refs" / (revision or "main")
    commit = ref.read_text().strip() if ref.is_file() else revision
    snapshot = repository / "snapshots" / commit if commit else None
    return snapshot if snapshot is not None and snapshot.is_dir() else None


def hub_cache() -> Path:
    """The hub's cache directory, by the same environment variables as huggingface_hub."""
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


DENSE = ("llama", "mistral", "qwen2", "qwen3")
MIXTURES = ("qwen3_moe", "mixtral", "olmoe")
ROUTER = "mlp.gate.weight"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What sizes a model's parameters, adapter and key-value cache depend on."""

    parameters: int
    active: int
    """Parameters one token passes through: all but the experts it is not routed to."""
    hidden_size: int
    vocabulary: int
    layers: int
    kv_values_per_token: int
    """Numbers the key-value cache keeps per token, all layers together: 2·L·kv_heads·D."""
    linear: dict[str, tuple[int, int]]
    """(inputs, outputs) of the linear modules that every layer has once, by name."""
    routed: dict[str, tuple[int, int, int]]
    """(experts, inputs, outputs) of the parameters that layers with experts have, by name in the layer; the
    router counts as one expert."""
    routed_layers: int
    chosen: int
    """Experts that work for a token; 0 without experts."""
    dense: int
    """Intermediate dimensions of a layer without experts."""
    outside: int
    """Parameters of embedding, output head and last norm, which are in no layer."""

    @property
    def layer_values(self) -> int:
        """Numbers a layer keeps of a token for the backward pass, roughly: what goes into its linear modules
        and what comes out. That counts inputs which several share more than once, and makes up for norms,
        rotary embeddings and products, which it leaves out."""
        attention = sum(sum(self.linear[name]) for name in ATTENTION)
        experts = [expert for name, expert in self.routed.items() if name != ROUTER]
        mlp = self.chosen * sum(inputs + outputs for _, inputs, outputs in experts)
        return attention + (mlp or 3 * (self.hidden_size + self.dense))

    @property
    def routers(self) -> int:
        """Parameters of all routers."""
        if not self.routed:
            return 0
        _, inputs, outputs = self.routed[ROUTER]
        return self.routed_layers * inputs * outputs

    def lora_parameters(
        self, rank: int, targets: Sequence[str], target_parameters: Sequence[str] = ()
    ) -> int | None:
        """Parameters of a LoRA adapter, Σ rank·(inputs + outputs), of each expert where experts are fused;
        None when a target is not known here."""
        if not set(targets) <= self.linear.keys():
            return None
        names = [
            [name for name in self.routed if name == target or name.endswith(f".{target}")]
            for target in target_parameters
        ]
        if not all(names):
            return None
        every_layer = sum(rank * sum(self.linear[name]) for name in targets)
        routed = 0
        for name in {name for found in names for name in found}:
            experts, inputs, outputs = self.routed[name]
            routed += experts * rank * (inputs + outputs)
        return self.layers * every_layer + self.routed_layers * routed


def model_shape(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape a config.json describes; None for an architecture that is not covered."""
    kind = config.get("model_type")
    if kind not in DENSE + MIXTURES:
        return None
    hidden, layers, vocabulary = config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_size = config.get("head_dim") or (hidden // heads)

    linear = {
        "q_proj": (hidden, heads * head_size),
        "k_proj": (hidden, kv_heads * head_size),
        "v_proj": (hidden, kv_heads * head_size),
        "o_proj": (heads * head_size, hidden),
    }
    attention = sum(inputs * outputs for inputs, outputs in linear.values())
    attention += _attention_biases(kind, config, linear) + _query_key_norms(kind, linear, head_size)
    norms = 2 * hidden
    per_layer = attention + norms

    dense_mlp = 3 * hidden * config["intermediate_size"]
    if config.get("mlp_bias"):
        dense_mlp += 2 * config["intermediate_size"] + hidden
    experts, chosen, expert, routed_layers = _experts(kind, config)
    router = experts * hidden
    dense_layers = layers - routed_layers
    outside_experts = layers * per_layer + dense_layers * dense_mlp + routed_layers * router
    if kind in DENSE:
        linear |= {
            "gate_proj": (hidden, config["intermediate_size"]),
            "up_proj": (hidden, config["intermediate_size"]),
            "down_proj": (config["intermediate_size"], hidden),
        }

    embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings", False) else 2)
    outside_experts += embeddings + hidden  # and the final norm
    return ModelShape(
        parameters=outside_experts + routed_layers * experts * expert,
        active=outside_experts + routed_layers * chosen * expert,
        hidden_size=hidden,
        vocabulary=vocabulary,
        layers=layers,
        kv_values_per_token=2 * layers * kv_heads * head_size,
        linear=linear,
        routed=_routed(experts, hidden, expert // (3 * hidden)) if experts else {},
        routed_layers=routed_layers,
        chosen=chosen,
        dense=config["intermediate_size"],
        outside=embeddings + hidden,
    )


def _routed(experts: int, hidden: int, size: int) -> dict[str, tuple[int, int, int]]:
    """Fused experts of ``size`` intermediate dimensions and their router, as transformers names them."""
    return {
        "mlp.experts.gate_up_proj": (experts, hidden, 2 * size),
        "mlp.experts.down_proj": (experts, size, hidden),
        ROUTER: (1, hidden, experts),
    }


def _attention_biases(kind: str, config: Mapping[str, Any], linear: Mapping[str, tuple[int, int]]) -> int:
    if kind == "qwen2":  # always on queries, keys and values, never on the output
        biased = ["q_proj", "k_proj", "v_proj"]
    else:
        biased = list(linear) if config.get("attention_bias") else []
    return sum(linear[name][1] for name in biased)


def _query_key_norms(kind: str, linear: Mapping[str, tuple[int, int]], head_size: int) -> int:
    """RMS norms on queries and keys: one head wide in Qwen3, as wide as all heads in OLMoE."""
    if kind in ("qwen3", "qwen3_moe"):
        return 2 * head_size
    if kind == "olmoe":
        return linear["q_proj"][1] + linear["k_proj"][1]
    return 0


def _experts(kind: str, config: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """(experts E, experts per token K, parameters of one expert, layers that route)."""
    if kind not in MIXTURES:
        return 0, 0, 0, 0
    layers = config["num_hidden_layers"]
    if kind == "mixtral":
        experts, size, routed = config["num_local_experts"], config["intermediate_size"], layers
    elif kind == "olmoe":
        experts, size, routed = config["num_experts"], config["intermediate_size"], layers
    else:
        # transformers writes num_experts as num_local_experts for some versions of this architecture
        experts = config.get("num_experts") or config["num_local_experts"]
        size = config["moe_intermediate_size"]
        every, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or []
        routed = sum(layer not in dense and (layer + 1) % every == 0 for layer in range(layers))
    return experts, config["num_experts_per_tok"], 3 * config["hidden_size"] * size, routed
