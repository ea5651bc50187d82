"""What a recipe asks of its model that not every model has, and whether a dry run can check it."""

from __future__ import annotations

from depo.budget.model_config import config_directory, find_config
from depo.config import PretrainedPolicy, Recipe

Key = tuple[str, ...]


def demands(recipe: Recipe) -> list[Key]:
    """Keys that some models cannot serve: an adapter's targets, and what only a mixture of experts has. None
    for the tiny policy, a known mixture that is built to the recipe."""
    policy, learner = recipe.policy, recipe.learner
    if not isinstance(policy, PretrainedPolicy):
        return []
    asked = {
        ("policy", "lora"): policy.lora is not None,
        ("policy", "router"): policy.router is not None,
        ("learner", "load_balancing_coef"): learner.load_balancing_coef > 0,
        ("learner", "routing_replay"): learner.routing_replay != "none",
    }
    return [key for key, is_asked in asked.items() if is_asked]


def unchecked(recipe: Recipe) -> str | None:
    """The line that says which demands a dry run cannot check, and why; None where it can check them all."""
    policy, asked = recipe.policy, demands(recipe)
    if not asked or not isinstance(policy, PretrainedPolicy):
        return None
    config = find_config(policy.model, policy.revision)
    if config is None:
        reason = "its config.json is not at hand"
    elif policy.trust_remote_code and "auto_map" in config:
        reason = "it is built by code of its own, which a dry run does not execute"
    else:
        return None
    keys = ", ".join(".".join(key) for key in asked)
    return f"not checked against {policy.model}: {keys} ({reason}); the run checks before its first step"


def directory_of(policy: PretrainedPolicy) -> str:
    """Where the config.json is that ``unchecked`` found."""
    directory = config_directory(policy.model, policy.revision)
    assert directory is not None
    return str(directory)
