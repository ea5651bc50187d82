"""What a recipe asks for that does nothing, or not what its name says: no error, but worth a word."""

from __future__ import annotations

from depo.config import GspoLoss, PretrainedPolicy, Recipe

TOKEN_SCALE = 0.05
"""A clip range from here on is meant for single tokens; a sequence's ratio moves by 1e-4 to 1e-3."""


def notes(recipe: Recipe) -> list[str]:
    """One line each, beginning with the key."""
    learner, router = recipe.learner, recipe.policy.router
    found = []
    if learner.routing_replay == "r2" and one_step(recipe):
        found.append(
            "learner.routing_replay: r2 does nothing with one optimizer step a batch, which has no "
            "old-policy pass; set learner.minibatches to 2 or more, or take r3"
        )
    if isinstance(learner.loss, GspoLoss):
        found += of_gspo(learner.loss, one_step(recipe))
    if learner.load_balancing_coef > 0 and router == "frozen":
        found.append(
            "learner.load_balancing_coef: the routers cannot follow it, policy.router is frozen; what it "
            "moves are the layers before them"
        )
    return found


def of_gspo(loss: GspoLoss, one_step: bool) -> list[str]:
    found = []
    if one_step:
        found.append(
            "learner.loss: gspo is grpo with one optimizer step a batch, for all ratios are 1; set "
            "learner.minibatches to 2 or more"
        )
    ranges = {"clip_low": loss.clip_low, "clip_high": loss.clip_high}
    return found + [
        f"learner.loss.{name}: {value:g} is a range for single tokens; gspo's ratio is that of whole "
        "sequences, moves by thousandths (its paper clips at 3e-4 and 4e-4), and is not clipped then"
        for name, value in ranges.items()
        if value >= TOKEN_SCALE
    ]


def one_step(recipe: Recipe) -> bool:
    """Whether current and old log-probabilities are the same numbers in every pass."""
    policy, learner = recipe.policy, recipe.learner
    dropout = policy.lora.dropout if isinstance(policy, PretrainedPolicy) and policy.lora else 0.0
    return learner.epochs == 1 and learner.minibatches == 1 and dropout == 0.0
