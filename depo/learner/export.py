"""Write the policy in Hugging Face format, LoRA merged, for serving and as a checkpoint.

The merge is W + ΔW in float32, then cast; the base weights are only read. Merging in place in bfloat16 and
taking it out again would leave rounding errors in the base weights at every export.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor, nn

from depo.permissions import follow_umask
from depo.policy.precision import base_model, compute_dtype

BASE_LAYER = ".base_layer"


def export_policy(model: nn.Module, directory: Path) -> None:
    """Write config.json, generation_config.json and safetensors in the policy's compute type.

    ``save_pretrained`` writes the fused experts of a MoE one by one, as published checkpoints have them.
    """
    inner = base_model(model)
    dtype = compute_dtype(model)
    config = copy.deepcopy(inner.config)
    inner.save_pretrained(directory, state_dict=merged_state(inner, dtype))
    # save_pretrained records the type of the weights in memory, which may be float32 master weights
    inner.config.dtype = config.dtype
    config.architectures = inner.config.architectures
    config.dtype = dtype
    config.save_pretrained(directory)
    follow_umask(directory)


@torch.no_grad()
def merged_state(inner: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """State dictionary of the transformers model as if it never had an adapter. Tied weights stay tied."""
    adapted: dict[str, LoraLayer] = {}
    for name, module in inner.named_modules():
        if isinstance(module, LoraLayer) and module.active_adapters:
            parameter = module.parameter_name if isinstance(module, ParamWrapper) else "weight"
            adapted[f"{name.replace(BASE_LAYER, '')}.{parameter}"] = module
    cast: dict[tuple[int, torch.Size], Tensor] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in inner.state_dict().items():
        if ".lora_" in name:
            continue
        name = name.replace(BASE_LAYER, "")
        if name in adapted:
            layer = adapted[name]
            merged = tensor.float() + sum(delta(layer, adapter) for adapter in layer.active_adapters)
            state[name] = merged.to(dtype)
            continue
        key = (tensor.data_ptr(), tensor.shape)
        if key not in cast:
            cast[key] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        state[name] = cast[key]
    return state


def delta(layer: LoraLayer, adapter: str) -> Tensor:
    """ΔW of one adapted weight in float32.

    For fused experts from the factors: `peft`'s own product is rounded to the type of the base weight. It
    keeps them as two linear layers, A (E·R, inputs) and B (outputs, R·E), whose E and R are laid out as below
    (E experts, R rank, I inputs, O outputs).
    """
    if not isinstance(layer, ParamWrapper) or layer.num_experts == 1:
        return layer.get_delta_weight(adapter).float()
    a_XI, b_OX = layer.lora_A[adapter].weight.float(), layer.lora_B[adapter].weight.float()
    a_ERI = a_XI.reshape(layer.num_experts, -1, a_XI.shape[-1])
    b_ORE = b_OX.reshape(b_OX.shape[0], -1, layer.num_experts)
    delta_EOI = torch.einsum("ore,eri->eoi", b_ORE, a_ERI) * layer.scaling[adapter]
    # peft's own condition: some architectures store (experts, inputs, outputs)
    transposed = getattr(layer.get_base_layer(), "is_transposed", False)
    return delta_EOI.transpose(1, 2) if transposed else delta_EOI
