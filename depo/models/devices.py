"""On which device a policy computes, and in which type, which need not be the type of its weights.

Full fine-tuning in bfloat16 keeps float32 master weights and runs under autocast: an optimizer step of 1e-6
relative size would vanish in bfloat16 weights. With LoRA the frozen base is bfloat16 and the adapter
float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    return torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def base_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model, inside its `peft` wrapper if there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
