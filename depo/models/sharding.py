"""A policy in shards: FSDP2 over the processes of a group, each of which holds a part of every weight.

A decoder layer is a unit: its weights are whole on every rank while it computes, and in parts at all other
times. What is outside the layers (embedding, last norm, output head) is another one, the root. The learner
runs decoder and head one after the other and never the model as a whole, so that the root has to be told when
a pass begins and ends: every forward pass runs ``inside``.

Trained weights are DTensors then. ``whole`` and ``like`` go between them and plain tensors; both give back
what they are given where nothing is sharded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from depo.errors import UserError
from depo.models.precision import ROOT, base_model, is_sharded


class Root(nn.Module):
    """The unit of all that is in no layer. Its forward pass is any function of the model inside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Part the weights over ``mesh``, in place; whatever device they are on, they end up on the mesh's, one
    unit after another. Gradients are summed over ranks. Raises UserError for a model whose decoder layers are
    not found."""
    inner = base_model(model)
    layers = getattr(inner.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UserError(
            f"learner.ranks: the decoder of {inner.config.model_type} models has no list of layers to shard"
        )
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    root = Root(inner)
    fully_shard(root, mesh=mesh)
    for unit in units(root):
        # Losses are weighted for the whole batch, so that their gradients add up; the default is the mean.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    inner.__dict__[ROOT] = root  # no submodule: the model would contain itself


def units(root: nn.Module) -> list[FSDPModule]:
    return [module for module in root.modules() if isinstance(module, FSDPModule)]


def inside(model: nn.Module, function: Callable[[], Any]) -> Any:
    """``function()``, in which the model's weights can be computed with."""
    if not is_sharded(model):
        return function()
    root = base_model(model).__dict__[ROOT]
    result = root(function)
    if not torch.is_grad_enabled():
        root.reshard()  # the root stays whole until a backward pass, and here none comes
    return result


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside, every rank has the whole policy and computes without the others: as much memory as one alone
    would need."""
    if not is_sharded(model):
        yield
        return
    parts = units(base_model(model).__dict__[ROOT])
    for unit in parts:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in parts:
            unit.reshard()
            unit.set_reshard_after_forward(True, recurse=False)


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor, put together in the host's memory; all ranks have to ask for it."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's part, the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """``tensor``, which every rank has, placed and sharded as ``parameter`` is."""
    tensor = tensor.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


def leads() -> bool:
    """Whether this process writes the files of its group."""
    return not dist.is_initialized() or dist.get_rank() == 0
