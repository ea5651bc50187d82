"""Move the policy visibly and put it back exactly: the start-up parity probe needs weights that an engine
which ignores its weight updates cannot be serving."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from depo.rng import seed64

RELATIVE = 0.05  # of a weight's root mean square: moves log-probabilities well beyond bfloat16 noise
LORA_B = 0.05  # absolute, about the spread of a freshly initialised weight: B starts at zero


@torch.no_grad()
def perturb(parameters: Mapping[str, nn.Parameter], seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    """Add noise keyed by (seed, parameter name) to the trainable parameters, ``scale`` times the usual;
    returns what they were.

    An adapter moves by its B matrices alone: they are zero at first and small later, so that noise
    relative to them would do nothing.
    """
    saved = {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}
    is_lora = any(".lora_B." in name for name in parameters)
    for name, parameter in parameters.items():
        if is_lora and ".lora_B." not in name:
            continue
        stream = torch.Generator().manual_seed(seed64(seed, "perturb", key=name))
        noise = torch.randn(parameter.shape, generator=stream).to(parameter.device)
        spread = LORA_B if is_lora else RELATIVE * parameter.float().pow(2).mean().sqrt()
        parameter.add_((noise * scale * spread).to(parameter.dtype))
    return saved


@torch.no_grad()
def restore(parameters: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(saved[name])
