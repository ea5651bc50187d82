"""A policy without its weights: the model of its config.json on torch's meta device, where tensors have
shapes and no memory. Enough to tell whether the layers exist that a recipe names, in a second even for a
model of hundreds of experts. What needs numbers (a router's formula, the head) the learner checks itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from depo.errors import UserError
from depo.learner.routing import LoadBalancing
from depo.models.fetch import quiet_transformers
from depo.models.loading import add_lora, set_router_training
from depo.models.tokenizer import KEY, first_line
from depo.moe.routers import known_routers
from depo.recipe.checks import directory_of
from depo.recipe.errors import Sources
from depo.recipe.schema import PretrainedPolicy, Recipe


def check_architecture(recipe: Recipe, sources: Sources) -> None:
    """Raise UserError, one line that opens with where the key was written, for the first thing ``recipe``
    asks of a model that has no such thing: what the run would say after loading the weights."""
    policy, learner = recipe.policy, recipe.learner
    assert isinstance(policy, PretrainedPolicy)
    coef, replay = learner.load_balancing_coef, learner.routing_replay
    with quiet_transformers(), torch.device("meta"):
        with written(sources, "policy.model"):
            model: nn.Module = outline(policy)
        with written(sources, "policy.lora"):
            model = add_lora(model, policy.lora) if policy.lora else model
        with written(sources, "policy.router"):
            set_router_training(model, policy)
        with written(sources, "learner.load_balancing_coef"):
            if coef > 0:
                LoadBalancing(model, coef)
        with written(sources, "learner.routing_replay"):
            if replay != "none":
                known_routers(model, f"learner.routing_replay {replay}")


def outline(policy: PretrainedPolicy) -> PreTrainedModel:
    """The model without numbers. Raises UserError for a config that this transformers cannot build."""
    try:
        config = AutoConfig.from_pretrained(directory_of(policy))
        return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{KEY}: cannot build {policy.model} from its config: {first_line(error)}") from error


@contextmanager
def written(sources: Sources, key: str) -> Iterator[None]:
    """Errors about ``key`` open with where it was written."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{sources.of(tuple(key.split('.')))}: {error}") from error
