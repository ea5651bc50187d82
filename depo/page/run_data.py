"""A run as its directory tells: metrics, summary, recipe, and the warnings that its guards gave.

Nothing is measured anew. What was saved comes from the ledger (summary.json; the newest step while a run goes
on). Warnings are the guards' own, which look at metrics.jsonl once more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from depo.errors import RunFailed, UserError
from depo.files import read_json
from depo.page.panels import INFORMATIVE, RECENT, UNIFORM, Row
from depo.recipe.loading import load_recipe
from depo.recipe.schema import Recipe
from depo.report.document import Number
from depo.trackers.console import Console
from depo.trackers.tracker import read_metrics
from depo.train.alarms import Alarms

NEWEST = 20
"""Steps that a large figure is the mean of, where one step alone says little."""


@dataclass
class RunData:
    """``rows`` by step, 0 where a run was evaluated before training; ``summary`` only of a run that is over;
    ``recipe`` None where another version wrote it; ``warnings`` as (step, text); ``ended``: by a guard."""

    path: Path
    rows: list[Row]
    summary: dict[str, Any] | None
    recipe: Recipe | None
    warnings: list[tuple[int, str]] = field(default_factory=list)
    ended: str = ""

    @property
    def reliability(self) -> list[Row] | None:
        return self.summary["reliability"] if self.summary else None

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def known(self, key: str) -> list[float]:
        return [row[key] for row in self.rows if row.get(key) is not None]

    def last(self, key: str) -> float | None:
        return next(iter(self.known(key)[-1:]), None)

    def newest(self, key: str) -> float | None:
        """Mean over the newest steps that have it."""
        values = self.known(key)[-NEWEST:]
        return fmean(values) if values else None

    @property
    def used(self) -> float:
        """Rollouts."""
        return self.summary["rollouts"]["generated"] if self.summary else self.last("generated/rollouts") or 0

    @property
    def saved(self) -> Number:
        """The ledger's, with its interval once the run is over."""
        found = (self.summary or {"rollouts": {"saved": self.last("saved")}})["rollouts"]
        return Number(found["saved"], "+,.0f", *(found.get("saved_interval") or (None, None)))

    @property
    def figures(self) -> list[float | None]:
        """By which runs are compared: held-out accuracy, that of uniformly drawn prompts, rollouts used and
        saved, seconds a step."""
        accuracy = [self.last("eval/all"), self.last(RECENT)]
        return [*accuracy, self.used, self.saved.value, self.newest("seconds/step")]


def read_run(path: Path) -> RunData:
    """Raises UserError for what is no run directory, and for damaged files in one."""
    log, told = path / "metrics.jsonl", path / "summary.json"
    if not log.is_file():
        what = "no metrics.jsonl in it" if path.is_dir() else "no such directory"
        raise UserError(f"{path}: {what}; expected the directory of a training run that has made a step")
    try:
        rows: list[Row] = [dict(row) for row in read_metrics(log)]
        summary = read_json(told) if told.is_file() else None
    except ValueError as error:
        raise UserError(str(error) if str(log) in str(error) else f"{told}: not JSON: {error}") from None
    if not rows:
        raise UserError(f"{log}: no step in it yet; look again when the run has made one")
    if summary is not None and summary["steps"] != rows[-1]["step"]:
        summary = None  # of before the run was extended
    try:
        recipe = load_recipe(path / "recipe.yaml")
    except UserError:  # of another version: what its guards were is not known, the figures are
        recipe = None
    run = RunData(path, rows, summary, recipe)
    if recipe is not None:
        ring(run, recipe)
    recent = Console(0, quiet=True, name="").accuracy
    for row in rows:
        empty, saved = row.get("uninformative_share"), row.get("saved")
        row[RECENT] = recent(row)
        row[INFORMATIVE] = None if empty is None else 1 - empty
        row[UNIFORM] = None if saved is None else row["generated/rollouts"] + saved
    measured = summary["eval"] if summary else {}
    if before := measured.get("before"):
        rows.insert(0, {"step": 0, "eval/all": before["all"]})
    if after := measured.get("after"):
        rows[-1].setdefault("eval/all", after["all"])
    return run


def ring(run: RunData, recipe: Recipe) -> None:
    step = 0
    alarms = Alarms(
        lambda text: run.warnings.append((step, text.removeprefix("warning: "))), recipe, run.path
    )
    for row in run.rows:
        step = row["step"]
        try:
            alarms.step(step, [], row)
        except RunFailed as failure:
            run.ended = str(failure).splitlines()[0] if row is run.rows[-1] else ""
