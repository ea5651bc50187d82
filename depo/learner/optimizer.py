"""What stands around the optimizer step: AdamW and its saved state, the learning-rate schedule, no dropout,
and a perturbation of the weights that the parity probe can see.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from depo.models.sharding import leads, like, local, whole
from depo.recipe import schema
from depo.rng import seed64


def lr_factor(schedule: Literal["constant", "linear", "cosine"], step: int, warmup: int, total: int) -> float:
    """Factor in (0, 1] for update ``step`` (from 0) of a run of ``total`` updates.

    Rises linearly over the first ``warmup`` updates, none of which is wasted at 0, and is 1 at update
    ``warmup``. From there constant, or towards 0 at ``total``, which no update reaches.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


def adamw(parameters: Mapping[str, nn.Parameter], settings: schema.Learner) -> torch.optim.AdamW:
    """AdamW. Vectors (norms, biases) are not decayed: shrinking them regularises nothing."""
    groups = [
        {"params": [p for p in parameters.values() if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=settings.lr, betas=settings.betas, fused=True
    )


SCHEMA_VERSION = 1
MOMENTS = ("exp_avg", "exp_avg_sq")


def save_state(
    directory: Path, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, counters: Mapping[str, Any]
) -> None:
    """``parameters`` are the trainable ones by name; ``counters`` are JSON, the caller's to interpret.

    Sharded ones are written whole, by the first rank, so that any number of ranks can load them.
    """
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    steps: dict[str, int] = {}
    for name, parameter in parameters.items():
        found = {name: parameter.detach()}
        state = optimizer.state.get(parameter)
        if state:
            steps[name] = int(state["step"])
            found |= {f"{name}.{moment}": state[moment].detach() for moment in MOMENTS}
        for key, tensor in found.items():
            gathered = whole(tensor)
            if leads():
                (weights if key == name else moments)[key] = gathered.cpu().contiguous()
    if not leads():
        return
    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights, directory / "weights.safetensors")
    save_file(moments, directory / "moments.safetensors")
    content = {"schema_version": SCHEMA_VERSION, "counters": dict(counters), "optimizer_steps": steps}
    (directory / "learner.json").write_text(json.dumps(content, indent=1))


def load_state(
    directory: Path, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer
) -> dict[str, Any]:
    """Put a checkpoint into parameters and optimizer, in place; returns the counters.

    Raises ValueError when it was written by another version or for another model; nothing is changed then.
    """
    content = json.loads((directory / "learner.json").read_text())
    if content["schema_version"] != SCHEMA_VERSION:
        found = content["schema_version"]
        raise ValueError(f"{directory}/learner.json has schema_version {found}, expected {SCHEMA_VERSION}")
    weights = load_file(directory / "weights.safetensors")
    moments = load_file(directory / "moments.safetensors")
    saved = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    present = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    if saved != present:
        unfit = min(name for name in saved.keys() | present.keys() if saved.get(name) != present.get(name))
        raise ValueError(
            f"{directory} does not fit this policy: "
            f"{unfit} has shape {saved.get(unfit)} there, {present.get(unfit)} here"
        )
    for name, parameter in parameters.items():
        with torch.no_grad():
            local(parameter).copy_(local(like(weights[name], parameter)))
        optimizer.state.pop(parameter, None)
        if name in content["optimizer_steps"]:
            # AdamW counts steps in a float32 tensor: beside the parameter when fused, else on the CPU.
            place = parameter.device if optimizer.defaults.get("fused") else "cpu"
            step = torch.tensor(float(content["optimizer_steps"][name]), dtype=torch.float32, device=place)
            state: dict[str, Tensor] = {"step": step}
            for moment in MOMENTS:
                state[moment] = like(moments[f"{name}.{moment}"], parameter)
            optimizer.state[parameter] = state
    return content["counters"]


RELATIVE = 0.05  # of a weight's root mean square: moves log-probabilities well beyond bfloat16 noise
LORA_B = 0.05  # absolute, about the spread of a freshly initialised weight: B starts at zero


@torch.no_grad()
def perturb(parameters: Mapping[str, nn.Parameter], seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    """Add noise keyed by (seed, parameter name) to the trainable parameters, ``scale`` times the usual;
    returns what they were.

    An adapter moves by its B matrices alone: they are zero at first and small later, so that noise
    relative to them would do nothing.
    """
    saved = {name: local(parameter).detach().cpu().clone() for name, parameter in parameters.items()}
    is_lora = any(".lora_B." in name for name in parameters)
    for name, parameter in parameters.items():
        if is_lora and ".lora_B." not in name:
            continue
        stream = torch.Generator().manual_seed(seed64(seed, "perturb", key=name))
        noise = local(like(torch.randn(parameter.shape, generator=stream), parameter))
        spread = LORA_B if is_lora else RELATIVE * whole(parameter.float().pow(2).mean()).sqrt()
        local(parameter).add_((noise * scale * spread).to(parameter.dtype))
    return saved


@torch.no_grad()
def restore(parameters: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        local(parameter).copy_(saved[name])


# Float attributes that modules read in training mode.
NOISE = ("attention_dropout", "dropout", "jitter_noise")


def silence_dropout(model: nn.Module) -> bool:
    """Set every dropout probability and router jitter to 0, LoRA's excepted; returns whether that is on.

    With it off, training mode computes the same numbers as evaluation mode.
    """
    lora_dropout = False
    for name, module in model.named_modules():
        if ".lora_dropout." in name:
            lora_dropout = lora_dropout or (isinstance(module, nn.Dropout) and module.p > 0)
            continue
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for attribute in NOISE:
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)
    return lora_dropout
