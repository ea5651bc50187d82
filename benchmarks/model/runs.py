"""Run arms: ``depo train`` in processes of their own; Ray, threads and memory start fresh.

RUNS/seed_0/hybrid.yaml   the recipe
RUNS/seed_0/hybrid.log    what the process printed
RUNS/seed_0/hybrid/       its run directory
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.jobs import Job, Over, beside, last_lines, run_each
from benchmarks.model.arms import Form, Task, arm_blocks
from depo.errors import DONE, UserError
from depo.recipe.loading import dump_recipe, load_recipe
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
    """The validated recipe; arms of a seed differ in ``ALLOWED_BLOCKS`` only. ``seed`` decides pool, held-out
    set and every draw, the same for all arms."""
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
        "learner": {
            "lr": form.lr,
            "baseline": {"type": "group"},
            "tokens_per_microbatch": form.tokens_per_microbatch,
        },
        "evaluation": {
            "method": "sample",
            # As in training. A greedy answer is right or wrong: small gains would take many prompts.
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


SUMMARY = "summary.json"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of one (seed, arm) are."""

    root: Path
    seed: int
    arm: str

    @property
    def title(self) -> str:
        return f"seed {self.seed}, {self.arm}"

    @property
    def directory(self) -> Path:
        return self.root / f"seed_{self.seed}" / self.arm

    @property
    def recipe(self) -> Path:
        return beside(self.directory, ".yaml")

    @property
    def log(self) -> Path:
        return beside(self.directory, ".log")

    @property
    def finished(self) -> bool:
        """``summary.json`` is the last thing that a run writes."""
        return (self.directory / SUMMARY).is_file()

    @property
    def started(self) -> bool:
        return (self.directory / "recipe.yaml").is_file()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: exit status 0, or its last lines. ``ran`` is False for one finished before."""

    status: int
    ran: bool
    seconds: float = 0.0
    last_lines: tuple[str, ...] = ()


def check_same_recipe(place: Place, recipe: Recipe) -> None:
    """Raise UserError when the run directory holds a run of another recipe: it would not be comparable."""
    if not place.started:
        return
    before, now = load_recipe(place.directory / "recipe.yaml").model_dump(), recipe.model_dump()
    # Threads go by how many run at a time; `depo train --resume` takes them anew.
    changed = [key for key in now if now[key] != before[key] and key != "resources"]
    if changed:
        raise UserError(
            f"--runs: {place.directory} holds a run with another {', '.join(changed)}; name another directory"
        )


def run_arms(
    planned: Sequence[tuple[Place, Recipe]],
    at_once: int,
    begun: Callable[[Place], None],
    over: Callable[[Place, Ended], None],
) -> None:
    """Run, continue or skip, ``at_once`` at a time; what went wrong is told ``over`` instead of being raised.
    Interrupted, the runs end first, and their last checkpoints stay."""
    jobs: dict[Job, Place] = {}
    for place, recipe in planned:
        if place.finished:
            clear(place)
            over(place, Ended(DONE, ran=False))
        else:
            jobs[job_of(recipe, place)] = place

    def ended(one: Over) -> None:
        place = jobs[one.job]
        if one.status != DONE:
            over(place, Ended(one.status, True, one.seconds, tuple(last_lines(one.job.log))))
            return
        clear(place)
        over(place, Ended(DONE, True, one.seconds))

    run_each(list(jobs), at_once, None, lambda job: begun(jobs[job]), ended)


def clear(place: Place) -> None:
    """A finished run needs no checkpoints, and a kill may have come before they were removed."""
    shutil.rmtree(place.directory / "checkpoints", ignore_errors=True)


def job_of(recipe: Recipe, place: Place) -> Job:
    """The process of one run, its recipe written."""
    resume = ("--resume",) if place.started else ()
    place.recipe.parent.mkdir(parents=True, exist_ok=True)
    place.recipe.write_text(dump_recipe(recipe), encoding="utf-8")
    arguments = ("train", str(place.recipe), "--run-dir", str(place.directory), *resume)
    return Job(place.arm, "depo", arguments, place.directory / SUMMARY)
