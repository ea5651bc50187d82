"""Which jobs a benchmark consists of, and where they leave what.

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
from benchmarks.selection.arms import Arm
from benchmarks.selection.pools import POOLS, maker
from benchmarks.selection.recipes import arm_recipe, warm_recipe
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
