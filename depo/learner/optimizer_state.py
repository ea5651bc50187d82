"""Checkpoint of what training changes: trainable weights, AdamW moments, counters. Safetensors and JSON.

    learner.json            schema version, counters, optimizer steps by parameter
    weights.safetensors     trainable parameters by name, in the type they are trained in
    moments.safetensors     NAME.exp_avg and NAME.exp_avg_sq

Frozen weights are not in it: they come from where the policy came from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

SCHEMA_VERSION = 1
MOMENTS = ("exp_avg", "exp_avg_sq")


def save_state(
    directory: Path, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, counters: Mapping[str, Any]
) -> None:
    """``parameters`` are the trainable ones by name; ``counters`` are JSON, the caller's to interpret."""
    directory.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    steps: dict[str, int] = {}
    for name, parameter in parameters.items():
        weights[name] = parameter.detach().cpu().contiguous()
        state = optimizer.state.get(parameter)
        if state:
            steps[name] = int(state["step"])
            for moment in MOMENTS:
                moments[f"{name}.{moment}"] = state[moment].detach().cpu().contiguous()
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
            parameter.copy_(weights[name])
        optimizer.state.pop(parameter, None)
        if name in content["optimizer_steps"]:
            state: dict[str, Tensor] = {
                "step": step_tensor(content["optimizer_steps"][name], optimizer, parameter)
            }
            for moment in MOMENTS:
                state[moment] = moments[f"{name}.{moment}"].to(parameter.device)
            optimizer.state[parameter] = state
    return content["counters"]


def step_tensor(step: int, optimizer: Optimizer, parameter: nn.Parameter) -> Tensor:
    """AdamW counts steps in a float32 tensor: beside the parameter when fused, else on the CPU."""
    fused = optimizer.defaults.get("fused")
    return torch.tensor(float(step), dtype=torch.float32, device=parameter.device if fused else "cpu")
