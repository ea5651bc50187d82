"""Run one arm: ``depo train`` in a process of its own, so that Ray, threads and memory start fresh.

RUNS/seed_0/hybrid.yaml   the recipe
RUNS/seed_0/hybrid.log    what the process printed
RUNS/seed_0/hybrid/       its run directory
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from depo.config import Recipe
from depo.errors import UserError
from depo.failures import DONE
from depo.recipe import dump_recipe, load_recipe

LAST_LINES = 8
"""Of a failed run's log that are worth showing."""
STOP_SECONDS = 30.0
"""What an interrupted run may take to end by itself."""


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
        return self.directory.with_name(f"{self.arm}.yaml")

    @property
    def log(self) -> Path:
        return self.directory.with_name(f"{self.arm}.log")

    @property
    def finished(self) -> bool:
        """``summary.json`` is the last thing that a run writes."""
        return (self.directory / "summary.json").is_file()

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
    """Run, continue or skip; what went wrong comes back instead of being raised. On Ctrl-C the run is
    waited for, and its last checkpoint stays."""
    if place.finished:
        return Ended(DONE, ran=False)
    resume = ["--resume"] if place.started else []
    place.recipe.parent.mkdir(parents=True, exist_ok=True)
    place.recipe.write_text(dump_recipe(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "depo", "train", str(place.recipe), "--run-dir", str(place.directory)]
    start = time.perf_counter()
    with place.log.open("a", encoding="utf-8") as log:
        status = wait_for(subprocess.Popen([*command, *resume], stdout=log, stderr=subprocess.STDOUT))
    seconds = time.perf_counter() - start
    if status != DONE:
        lines = [line for line in place.log.read_text(encoding="utf-8").splitlines() if line.strip()]
        return Ended(status, True, seconds, tuple(lines[-LAST_LINES:]))
    shutil.rmtree(place.directory / "checkpoints", ignore_errors=True)
    return Ended(status, True, seconds)


def wait_for(process: subprocess.Popen) -> int:
    """Exit status. The terminal sends Ctrl-C to the run as well: let it end, then end here."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        raise
