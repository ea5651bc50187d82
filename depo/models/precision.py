"""On which device a policy computes, and in which type, which need not be the type of its weights.

Full fine-tuning in bfloat16 keeps float32 master weights and runs under autocast: an optimizer step of 1e-6
relative size would vanish in bfloat16 weights. With LoRA the frozen base is bfloat16 and the adapter
float32.

The routers of a mixture of experts compute in float32, weights included, whatever the rest of the policy
does. A router chooses by differences between its logits that bfloat16 can round away, and a token sent
elsewhere is another policy.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from depo.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def pick_device(wanted: str, key: str = "learner.device") -> torch.device:
    """``auto`` (cuda where there is one), ``cpu`` or ``cuda``; ``key`` names it where it was asked for.
    Raises UserError where there is none."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key}: cuda is asked for, but torch finds no CUDA device; set cpu or auto")
    return torch.device(wanted)


ATTRIBUTE = "compute_dtype"

ROOT = "sharded_root"


def set_compute_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Record the compute type on the transformers model (inside a `peft` wrapper)."""
    setattr(base_model(model), ATTRIBUTE, dtype)


def compute_dtype(model: nn.Module) -> torch.dtype:
    """The recorded compute type; for a model that nobody recorded one for, the type of its weights."""
    inner = base_model(model)
    return getattr(inner, ATTRIBUTE, None) or inner.dtype


def autocast(model: nn.Module) -> torch.autocast:
    """Context in which every forward pass of this policy runs; does nothing for a float32 policy."""
    dtype = compute_dtype(model)
    device = next(model.parameters()).device.type
    return torch.autocast(
        device,
        dtype=torch.bfloat16,
        enabled=dtype == torch.bfloat16,
        cache_enabled=not is_sharded(model),  # it would keep whole what is in shards
    )


def is_sharded(model: nn.Module) -> bool:
    """Whether this process has only a part of each weight: see ``depo.models.sharding``."""
    return ROOT in base_model(model).__dict__


def base_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model, inside its `peft` wrapper if there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


CLASS_SUFFIX = "topkrouter"
"""transformers calls them Qwen3MoeTopKRouter, MixtralTopKRouter, DeepseekV3TopkRouter, …"""


def routers(model: nn.Module) -> dict[str, nn.Module]:
    """Routers by their name in the transformers model, in the order of the layers."""
    return {
        name: module
        for name, module in base_model(model).named_modules()
        if type(module).__name__.lower().endswith(CLASS_SUFFIX)
    }


def route_in_float32(model: nn.Module) -> None:
    """Make every router's weights float32 and keep autocast out of its forward pass, in place."""
    for router in routers(model).values():
        router.float()
        # A bound method, because deepcopy binds it to the copy; a closure would stay with the original.
        router.forward = types.MethodType(float32_forward, router)


def float32_forward(self: nn.Module, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    with torch.autocast(hidden_states.device.type, enabled=False):
        return type(self).forward(self, hidden_states.float(), *args, **kwargs)
