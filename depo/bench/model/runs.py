"""Run one arm: ``depo train`` in a process of its own, so that Ray, threads and memory start fresh.

RUNS/seed_0/hybrid.yaml   the recipe
RUNS/seed_0/hybrid.log    what the process printed
RUNS/seed_0/hybrid/       its run directory
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from depo.bench.jobs import Job, beside, last_lines, run_job
from depo.config import Recipe
from depo.errors import UserError
from depo.failures import DONE
from depo.recipe import dump_recipe, load_recipe

SUMMARY = "summary.json"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of one (seed, arm) are."""

    root: Path
    seed: int
    arm: str

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
    changed = [key for key in now if now[key] != before[key]]
    if changed:
        raise UserError(
            f"--runs: {place.directory} holds a run with another {', '.join(changed)}; name another directory"
        )


def run_arm(recipe: Recipe, place: Place) -> Ended:
    """Run, continue or skip; what went wrong comes back instead of being raised. Interrupted, the run ends
    first, and its last checkpoint stays."""
    if place.finished:
        return Ended(DONE, ran=False)
    resume = ("--resume",) if place.started else ()
    place.recipe.parent.mkdir(parents=True, exist_ok=True)
    place.recipe.write_text(dump_recipe(recipe), encoding="utf-8")
    arguments = ("train", str(place.recipe), "--run-dir", str(place.directory), *resume)
    job = Job(place.arm, "depo", arguments, place.directory / SUMMARY)
    start = time.perf_counter()
    status = run_job(job)
    seconds = time.perf_counter() - start
    if status != DONE:
        return Ended(status, True, seconds, tuple(last_lines(job.log)))
    shutil.rmtree(place.directory / "checkpoints", ignore_errors=True)
    return Ended(status, True, seconds)
