"""The routers of a mixture of experts: where they are, whether they are trained, in which type they compute.

A router chooses by differences between its logits that bfloat16 can round away, and a token sent elsewhere
is another policy. So routers compute in float32, weights included, whatever the rest of the policy does.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from depo.errors import UserError
from depo.models.devices import base_model
from depo.recipe.schema import PretrainedPolicy

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


def set_router_training(model: nn.Module, policy: PretrainedPolicy) -> None:
    """Apply ``policy.router`` to a loaded policy. Raises UserError where it asks for what cannot be."""
    if policy.router is None:
        return
    found = routers(model)
    if not found:
        kind = base_model(model).config.model_type
        raise UserError(f"policy.router: {policy.router}, but a {kind} model has no router; leave it out")
    adapted = has_adapter(model, found)
    if policy.router == "frozen":
        if adapted:
            raise UserError(
                "policy.router: frozen, but policy.lora.target_parameters has an adapter on the router"
            )
        for router in found.values():
            router.requires_grad_(False)
    elif policy.lora is not None and not adapted:
        name = next(iter(found)).partition(".layers.")[2].partition(".")[2]
        raise UserError(
            "policy.router: trained, but policy.lora has no adapter on it; "
            f"add {name}.weight to policy.lora.target_parameters"
        )


def has_adapter(model: nn.Module, found: dict[str, nn.Module]) -> bool:
    """Whether LoRA wraps a router: `peft` puts the router inside, as ``base_layer``."""
    modules = dict(base_model(model).named_modules())
    return any(isinstance(modules[name.rpartition(".")[0]], LoraLayer) for name in found)
