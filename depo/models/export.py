"""Write the policy in Hugging Face format, LoRA merged, for serving and as a checkpoint.

The merge is W + ΔW in float32, then cast; the base weights are only read. Merging in place in bfloat16 and
taking it out again would leave rounding errors in the base weights at every export.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Container
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor, nn

from depo.files import follow_umask
from depo.models.precision import base_model, compute_dtype
from depo.models.sharding import leads, whole

BASE_LAYER = ".base_layer"

BLOCK = re.compile(r".*?\.\d+\.[^.]+")
"""Of a weight's name, what leads to the block of its decoder layer: ``model.layers.3.self_attn``."""


def export_policy(model: nn.Module, directory: Path, trained_only: bool = False) -> None:
    """Write config.json, generation_config.json and safetensors in the policy's compute type.

    ``save_pretrained`` writes the fused experts of a MoE one by one, as published checkpoints have them.
    ``trained_only`` leaves out every block in which nothing is trained: what an engine that was started from
    the same checkpoint has already.
    """
    inner = base_model(model)
    dtype = compute_dtype(model)
    config = copy.deepcopy(inner.config)
    wanted = None
    if trained_only:
        wanted = {block_of(name) for name, weight in inner.named_parameters() if weight.requires_grad}
    state = merged_state(inner, dtype, wanted)
    if not leads():
        return
    inner.save_pretrained(directory, state_dict=state)
    # save_pretrained records the type of the weights in memory, which may be float32 master weights
    inner.config.dtype = config.dtype
    config.architectures = inner.config.architectures
    config.dtype = dtype
    config.save_pretrained(directory)
    follow_umask(directory)


def block_of(name: str) -> str:
    """What is sent together: attention or feed-forward part of a decoder layer; outside of layers, a module.

    An engine fuses weights within a block (queries, keys and values; gate and up; all experts), and reloads a
    fused weight from all of its parts or not at all.
    """
    if found := BLOCK.match(name):
        return found.group()
    module, of_adapter, _ = name.replace(BASE_LAYER, "").partition(".lora_")
    return module if of_adapter else module.rpartition(".")[0]


@torch.no_grad()
def merged_state(
    inner: nn.Module, dtype: torch.dtype, blocks: Container[str] | None = None
) -> dict[str, Tensor]:
    """State dictionary of the transformers model as if it never had an adapter; of ``blocks`` only, if given.
    Tied weights stay tied, and what the architecture keeps in float32 stays that. Of a sharded model one
    weight at a time is put together, in the host's memory; all ranks have to ask, the first one gets it."""
    adapted: dict[str, LoraLayer] = {}
    for name, module in inner.named_modules():
        if isinstance(module, LoraLayer) and module.active_adapters:
            parameter = module.parameter_name if isinstance(module, ParamWrapper) else "weight"
            adapted[f"{name.replace(BASE_LAYER, '')}.{parameter}"] = module
    kept = set(getattr(inner, "_keep_in_fp32_modules_strict", None) or ())
    found: dict[int, Tensor] = {}
    state: dict[str, Tensor] = {}
    for name, parameter in inner.state_dict(keep_vars=True).items():
        if ".lora_" in name or (blocks is not None and block_of(name) not in blocks):
            continue
        name = name.replace(BASE_LAYER, "")
        if id(parameter) not in found:
            tensor = whole(parameter.detach())
            if name in adapted:
                layer = adapted[name]
                tensor = tensor.float() + sum(delta(layer, adapter) for adapter in layer.active_adapters)
            # Biases that choose experts are kept: loaded, and computed with, as float32.
            if not kept.intersection(name.split(".")):
                tensor = rounded(tensor, dtype)
            found[id(parameter)] = tensor if leads() else tensor.new_empty(0)
        state[name] = found[id(parameter)]
    return state


def rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """In ``dtype``. What that changes goes to the host: the device may have no room for a second policy."""
    if tensor.dtype == dtype or not tensor.is_floating_point():
        return tensor
    return tensor.to("cpu", dtype)


def delta(layer: LoraLayer, adapter: str) -> Tensor:
    """ΔW of one adapted weight in float32.

    For fused experts from the factors: `peft`'s own product is rounded to the type of the base weight. It
    keeps them as two linear layers, A (E·R, inputs) and B (outputs, R·E), whose E and R are laid out as below
    (E experts, R rank, I inputs, O outputs).
    """
    if not isinstance(layer, ParamWrapper) or layer.num_experts == 1:
        return whole(layer.get_delta_weight(adapter)).float()
    a_XI, b_OX = (whole(part[adapter].weight).float() for part in (layer.lora_A, layer.lora_B))
    a_ERI = a_XI.reshape(layer.num_experts, -1, a_XI.shape[-1])
    b_ORE = b_OX.reshape(b_OX.shape[0], -1, layer.num_experts)
    delta_EOI = torch.einsum("ore,eri->eoi", b_ORE, a_ERI) * layer.scaling[adapter]
    # peft's own condition: some architectures store (experts, inputs, outputs)
    transposed = getattr(layer.get_base_layer(), "is_transposed", False)
    return delta_EOI.transpose(1, 2) if transposed else delta_EOI
