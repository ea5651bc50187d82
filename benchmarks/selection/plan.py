"""The recipe of every run, which jobs a benchmark consists of, and where they leave what.

OUT/FAMILY/policies/NAME/seed_0/            warm-started policy of the pools that start there, with its recipe
OUT/FAMILY/POOL/seed_0/                     prompts.parquet, heldout.parquet, composition.json
OUT/FAMILY/POOL/seed_0/ARM/                 a run directory, its recipe beside it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.jobs import Job, beside
from benchmarks.selection.arms import (
    FAMILIES,
    POOLS,
    WORLDS,
    Arm,
    Pool,
    World,
    estimator_block,
    maker,
    selection_block,
)
from benchmarks.selection.work import COMPOSITION, SUMMARY
from depo.errors import UserError
from depo.recipe.loading import load_recipe, write_resolved
from depo.recipe.schema import Recipe

WORK = "benchmarks.selection.work"


@dataclass(frozen=True)
class Cell:
    """One run: a pool, a seed, an arm."""

    pool: str
    seed: int
    name: str
    arm: Arm
    horizon: int


def plan(out: Path, family: str, cells: Sequence[Cell], encoder: Path | None) -> tuple[list[Job], list[Path]]:
    """The jobs, warm starts first, and the run directory of every cell."""
    jobs: dict[Path, Job] = {}
    where: list[Path] = []
    for cell in cells:
        pool = POOLS[cell.pool]
        policy = out / family / "policies" / pool.policy(family) / f"seed_{cell.seed}"
        prompts = out / family / cell.pool / f"seed_{cell.seed}"
        run = prompts / cell.name
        warm = stored(warm_recipe(maker(pool, family), family, cell.seed), beside(policy, ".yaml"))
        composed = stored(warm_recipe(pool, family, cell.seed), beside(prompts, ".yaml"))
        label = f"{cell.pool}, seed {cell.seed}"
        compose = "compose_hidden" if pool.hidden else "compose"
        recipe = stored(
            arm_recipe(pool, family, cell.seed, cell.name, cell.arm, cell.horizon, encoder),
            beside(run, ".yaml"),
        )
        for job in (
            Job(
                f"{label}: warm start",
                WORK,
                ("warm_up", warm, str(policy)),
                policy / "config.json",
            ),
            Job(
                f"{label}: pool",
                WORK,
                (compose, composed, warm, str(policy), str(prompts)),
                prompts / COMPOSITION,
                (policy / "config.json",),
            ),
            Job(
                f"{label}, {cell.name}",
                WORK,
                ("arm", recipe, str(policy), str(prompts), str(run)),
                run / SUMMARY,
                (prompts / COMPOSITION,),
            ),
        ):
            jobs.setdefault(job.result, job)
        where.append(run)
    return sorted(jobs.values(), key=lambda job: len(job.needs) and 1), where


def wherever_it_lies(recipe: Recipe) -> dict[str, Any]:
    """The recipe with the text encoder's directory by its name alone: with OUT that moves, too."""
    found = recipe.model_dump()
    model = found["estimator"].get("model")
    return found | {"estimator": found["estimator"] | {"model": model and Path(model).name}}


def stored(recipe: Recipe, path: Path) -> str:
    """Write the recipe unless it is there. Raises UserError when OUT was made with other settings: its
    results would be mixed with those of today's."""
    if path.exists():
        found = load_recipe(path)
        if found == recipe:
            return str(path)
        before, now = wherever_it_lies(found), wherever_it_lies(recipe)
        changed = [key for key in now if now[key] != before[key]]
        if changed:
            raise UserError(
                f"--out: {path} was made with another {', '.join(changed)}; name another directory, or "
                "remove this file and the directory beside it"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_resolved(recipe, path)
    return str(path)


GROUP_SIZE = 8
USUAL_PROMPTS = 4_000

WARMUP_STEPS = 10
"""Of the learning rate: Adam's first steps are as long as its longest."""


def horizon_of(world: World, passes: float) -> int:
    """Rollouts that ``passes`` passes over the world's usual pool take."""
    return round(USUAL_PROMPTS * world.scale * GROUP_SIZE * passes)


def world_of(family: str) -> World:
    return next(world for world in WORLDS.values() if family in world.families)


def warm_recipe(pool: Pool, family: str, seed: int) -> Recipe:
    """What a pool and its policy are made with; nothing of it depends on an arm."""
    return Recipe.model_validate(base(pool, family, seed) | {"name": "warm", "steps": 1})


def arm_recipe(
    pool: Pool, family: str, seed: int, name: str, arm: Arm, horizon: int, encoder: Path | None
) -> Recipe:
    """One run over ``horizon`` rollouts."""
    estimator = estimator_block(arm.estimator)
    if arm.needs_encoder:
        estimator["model"] = str(encoder)
    selection = selection_block(arm.selection)
    if pool.once and selection["type"] not in ("uniform", "skip"):
        selection["cooldown"] = horizon
    settings, world = base(pool, family, seed), world_of(family)
    prompts = world.rollouts * arm.batches // arm.group_size
    settings["batch"] = {"prompts": prompts, "group_size": arm.group_size}
    settings["learner"] |= {"lr": arm.lr} | arm.learner
    return Recipe.model_validate(
        settings
        | {
            "name": name,
            "steps": horizon,  # never reached: every step generates something
            "max_rollouts": horizon,
            "estimator": estimator,
            "selection": selection,
            "evaluation": {**settings["evaluation"], "every_rollouts": horizon // world.checks},
        }
    )


def base(pool: Pool, family: str, seed: int) -> dict[str, Any]:
    chosen, world = FAMILIES[family], world_of(family)
    lessons = dict(chosen.lessons) | dict(pool.warm_start)
    if lessons.get("written"):
        lessons["band"] = chosen.lessons["band"]  # of what the teacher has taught, whatever the pool is for
    return {
        "seed": seed,
        "policy": {"type": "tiny_moe", **world.policy, "warm_start": lessons},
        "data": {
            "train": {
                "type": "arithmetic",
                "operations": ["+", "*"],
                "digits": [chosen.digits],
                "size": round(chosen.candidates * pool.candidates * max(pool.prompts / USUAL_PROMPTS, 1)),
                "seed": seed,
                **world.source,
            },
            "grade": {
                "pool": round(pool.prompts * world.scale),
                "heldout": world.heldout,
                **pool.grading,
                **world.grading,
            },
            "raw": True,
            "max_prompt_tokens": world.limits[0],
        },
        "batch": {"prompts": world.rollouts // GROUP_SIZE, "group_size": GROUP_SIZE},
        "rollout": {"max_new_tokens": world.limits[1], "transformers": {"batch_size": 1024}},
        "reward": {"type": "exact", **world.reward},
        "learner": {"loss": {"type": "dapo"}, "baseline": {"type": "group"}, "warmup_steps": WARMUP_STEPS},
        "evaluation": dict(world.evaluation),
        "checkpoint": {"every": 200, "keep": 1},
        "tracking": {"rollouts": False},
        "resources": {"threads": 1},
    }
