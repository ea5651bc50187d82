"""The recipe of one arm-run, as ``depo train`` gets it. Arms of a seed differ in ``ALLOWED_BLOCKS`` only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.model.arms import arm_blocks
from benchmarks.model.forms import Form
from benchmarks.model.tasks import Task
from depo.recipe.schema import Recipe
from depo.report.provenance import usable_cores

ENGINES_SHARE = 0.6
"""Of the GPU's memory, for the engines of all runs together; the rest is the learners'."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all arms and seeds share."""

    model: str
    task: Task
    form: Form
    steps: int
    engine: str
    """``transformers`` or ``vllm``."""
    encoder: str | None = None
    jobs: int = 1
    """Runs at a time."""

    @property
    def horizon(self) -> int:
        """Training rollouts that every arm gets."""
        return self.form.horizon(self.steps)


def arm_recipe(setting: Setting, arm: str, seed: int) -> Recipe:
    """The validated recipe. ``seed`` decides pool, held-out set and every draw, the same for all arms."""
    task, form = setting.task, setting.form
    raw: dict[str, Any] = {
        "name": f"{task.name}_{arm}_seed{seed}",
        "seed": seed,
        # No step generates less than a first round, so the rollouts end the run; this is only its bound.
        "steps": setting.steps,
        "max_rollouts": setting.horizon,
        "policy": {"type": "pretrained", "model": setting.model, "dtype": form.dtype},
        "data": {
            "train": task.train(form.pool, seed),
            "heldout": form.heldout,
            "template": task.template,
            "max_prompt_tokens": task.max_prompt_tokens,
        },
        "batch": {"prompts": form.prompts, "group_size": form.group_size},
        "rollout": {
            "engine": setting.engine,
            "max_new_tokens": task.max_new_tokens,
            "transformers": {"batch_size": form.generation_batch},
        },
        "reward": {"type": task.reward},
        "learner": {"lr": form.lr, "tokens_per_microbatch": form.tokens_per_microbatch},
        "evaluation": {
            "method": "sample",
            # As in training; a greedy answer is right or wrong, so that small gains would take many prompts.
            "temperature": 1.0,
            "n": form.samples,
            "every_rollouts": -(-setting.horizon // form.evaluations),
        },
        "checkpoint": {"every": form.checkpoint_every, "keep": 1},
    }
    if setting.jobs > 1:
        raw["resources"] = {"threads": max(1, usable_cores() // setting.jobs)}
    if setting.engine == "vllm":
        # Learner and engine share the one GPU: a part of it for the engine's weights and cache.
        share = min(0.3, round(ENGINES_SHARE / setting.jobs, 3))
        raw["rollout"]["vllm"] = {"gpu_memory_utilization": share}
        # The engine reserves the GPU of Ray's count; a learner that reserves none still sees it.
        raw["resources"] = raw.get("resources", {}) | {"learner_gpus": 0}
    return Recipe.model_validate(raw | arm_blocks(arm, form, setting.encoder))
