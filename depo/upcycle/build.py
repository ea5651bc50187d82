"""The mixture as a transformers model: everything but the feed-forward layers is the dense model's."""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from depo.rng import seed64
from depo.upcycle.architecture import moe_config
from depo.upcycle.experts import make_experts, make_router
from depo.upcycle.settings import Upcycling


@torch.no_grad()
def build(dense: PreTrainedModel, settings: Upcycling, name: str) -> PreTrainedModel:
    """The mixture in float32, in evaluation mode; ``name`` of the dense model is for error messages.

    Draws are keyed by (seed, layer). Raises UserError for a model that cannot be upcycled this way.
    """
    config = moe_config(dense.config, settings, name)
    with torch.random.fork_rng(devices=[]):
        moe = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    copy_shared(dense, moe)
    layers = zip(dense.model.layers, moe.model.layers, strict=True)
    for index, (dense_layer, moe_layer) in enumerate(layers):
        stream = torch.Generator().manual_seed(seed64(settings.seed, "upcycle", index=index))
        fill(moe_layer.mlp, dense_layer.mlp, settings, stream)
    moe.generation_config = copy.deepcopy(dense.generation_config)
    return moe.eval()


def fill(block: nn.Module, mlp: nn.Module, settings: Upcycling, stream: torch.Generator) -> None:
    """Experts and router of one layer."""
    experts = make_experts(mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight, settings, stream)
    block.experts.gate_up_proj.copy_(torch.cat([experts.gate_ESH, experts.up_ESH], dim=1))
    block.experts.down_proj.copy_(experts.down_EHS)
    block.gate.weight.copy_(make_router(settings, block.gate.weight.shape[1], stream))


def copy_shared(dense: PreTrainedModel, moe: PreTrainedModel) -> None:
    """Embeddings, attention, norms and head. The two models call them by the same names: checked."""
    source, target = dense.state_dict(), moe.state_dict()
    shared = {key for key in source if ".mlp." not in key}
    differing = shared ^ {key for key in target if ".mlp." not in key}
    if differing:
        raise RuntimeError(f"dense and mixture do not share {', '.join(sorted(differing))}")
    for key in shared:
        target[key].copy_(source[key])
