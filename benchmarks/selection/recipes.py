"""The recipe of one run: pool, seed and arm put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.selection.arms import Arm
from benchmarks.selection.pools import FAMILIES, Pool
from depo.recipe.schema import Recipe

BATCH_PROMPTS = 32


GROUP_SIZE = 8


USUAL_PROMPTS = 4_000


PASSES = 10
"""Over a pool of the usual size, in rollouts."""


HELDOUT = 1_000


CHECKS = 50
"""Evaluations over the horizon: every 2 %."""


WARMUP_STEPS = 10
"""Of the learning rate: Adam's first steps are as long as its longest."""


def horizon_of(prompts: int, passes: float = PASSES) -> int:
    """Rollouts that ``passes`` passes over so many prompts take."""
    return round(prompts * GROUP_SIZE * passes)


def warm_recipe(pool: Pool, family: str, seed: int) -> Recipe:
    """What a pool and its policy are made with; nothing of it depends on an arm."""
    return Recipe.model_validate(base(pool, family, seed) | {"name": "warm", "steps": 1})


def arm_recipe(
    pool: Pool, family: str, seed: int, name: str, arm: Arm, horizon: int, encoder: Path | None
) -> Recipe:
    """One run over ``horizon`` rollouts."""
    estimator = dict(arm.estimator)
    if arm.needs_encoder:
        estimator["model"] = str(encoder)
    selection = dict(arm.selection)
    if pool.once and selection["type"] not in ("uniform", "skip"):
        selection["cooldown"] = horizon
    settings = base(pool, family, seed)
    settings["batch"] |= arm.batch or {}
    settings["learner"] |= {"lr": arm.lr}
    return Recipe.model_validate(
        settings
        | {
            "name": name,
            "steps": horizon,  # never reached: every step generates something
            "max_rollouts": horizon,
            "estimator": estimator,
            "selection": selection,
            "evaluation": {"method": "exact", "every_rollouts": horizon // CHECKS},
        }
    )


def base(pool: Pool, family: str, seed: int) -> dict[str, Any]:
    chosen = FAMILIES[family]
    return {
        "seed": seed,
        "policy": {
            "type": "tiny_moe",
            "warm_start": dict(chosen.lessons) | dict(pool.warm_start),
        },
        "data": {
            "train": {
                "type": "arithmetic",
                "operations": ["+", "*"],
                "digits": [chosen.digits],
                "size": round(chosen.candidates * pool.candidates * max(pool.prompts / USUAL_PROMPTS, 1)),
                "seed": seed,
            },
            "grade": {"pool": pool.prompts, "heldout": HELDOUT, **pool.grading},
            "raw": True,
            "max_prompt_tokens": 16,
        },
        "batch": {"prompts": BATCH_PROMPTS, "group_size": GROUP_SIZE},
        "rollout": {"max_new_tokens": 8, "transformers": {"batch_size": 1024}},
        "reward": {"type": "exact"},
        "learner": {"loss": {"type": "dapo"}, "warmup_steps": WARMUP_STEPS},
        "evaluation": {"method": "exact"},
        "checkpoint": {"every": 200, "keep": 1},
        "tracking": {"rollouts": False},
        "resources": {"threads": 1},
    }
