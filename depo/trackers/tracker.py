"""What keeps the metrics and rollouts of a run: the protocol of a tracker, the registry, and one tracker.

    jsonl         metrics.jsonl and routing.jsonl: one JSON object a step, durable as soon as it is written
    rollouts      see ``depo.trackers.rollouts``
    tensorboard, wandb, mlflow, trackio   see ``depo.trackers.dashboards``

Trackers are registered in the entry-point group ``depo.trackers``: classes or functions that take ``run_dir``
and the recipe's options as keywords, and return a Tracker. JSON lines are always written; ``tracking`` in the
recipe says what else is.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from depo.errors import UserError
from depo.files import write_text, writing
from depo.plugins import build
from depo.recipe.schema.recipe import Tracking
from depo.trackers.rollouts import ParquetRollouts, missing_steps
from depo.types import Group

GROUP = "depo.trackers"

BUILT_IN = {
    "tensorboard": "depo.trackers.dashboards:TensorBoard",
    "wandb": "depo.trackers.dashboards:Wandb",
    "mlflow": "depo.trackers.dashboards:Mlflow",
    "trackio": "depo.trackers.dashboards:Trackio",
}


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A finished step. ``metrics``: scalars by name, NaN or None where one is unknown; ``groups``: its
    rollouts, their outcomes assigned; ``layers``: routing by name, a value for each routed layer, empty for a
    dense policy."""

    step: int
    metrics: Mapping[str, float | None]
    groups: Sequence[Group]
    layers: Mapping[str, list[float]]


class Tracker(Protocol):
    def step(self, record: StepRecord) -> None:
        """Keep a step. The next one begins when this returns."""
        ...

    def truncate_after(self, step: int) -> Sequence[str] | None:
        """The run goes on after ``step``: forget what an interrupted run kept of later ones. Returns a line
        for each thing that is missing or damaged of the steps up to ``step``."""
        ...

    def close(self) -> None:
        """The run is over, whether it got to its end or not."""
        ...


class Guarded:
    """A tracker whose failure does not end the run: ``say`` hears of it once, and the tracker no more."""

    def __init__(self, name: str, tracker: Tracker, say: Callable[[str], None]) -> None:
        self.name, self.tracker, self.say = name, tracker, say
        self.failed = False

    def step(self, record: StepRecord) -> None:
        self._tell(f"step {record.step}", lambda: self.tracker.step(record))

    def truncate_after(self, step: int) -> Sequence[str] | None:
        return self._tell("the resume", lambda: self.tracker.truncate_after(step))

    def close(self) -> None:
        self._tell("the end", self.tracker.close)

    def _tell(self, when: str, what: Callable[[], Sequence[str] | None]) -> Sequence[str] | None:
        if self.failed:
            return None
        try:
            return what()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no reason to lose a run
            self.failed = True
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self.say(
                f"warning: tracking: {self.name} failed at {when} ({reason}); the run goes on without it"
            )
            return None


def open_trackers(tracking: Tracking, run_dir: Path, say: Callable[[str], None]) -> list[Tracker]:
    """The trackers that a recipe asks for; ``say`` hears where dashboards are, and of failures later on.
    Raises UserError, naming the key, for one that cannot be had."""
    # The run's own record is not guarded: where it cannot be written, the run stops, to be resumed. JSON
    # lines come after the rollouts: a step in metrics.jsonl has its rollouts on disk.
    trackers: list[Tracker] = [ParquetRollouts(run_dir, tracking.rollouts), JsonLines(run_dir)]
    for index, one in enumerate(tracking.trackers):
        spec = {"type": "plugin", "name": one.name, "options": {"run_dir": run_dir, **one.options}}
        try:
            tracker = build(GROUP, BUILT_IN, spec)
        except (ValueError, UserError) as error:  # an unknown name, or options that it does not take
            raise UserError(f"tracking.trackers.{index}: {error}") from error
        if place := getattr(tracker, "place", ""):
            say(f"{one.name}: {place}")
        trackers.append(Guarded(one.name, tracker, say))
    return trackers


Scalar = float | int | str | bool | None

Value = Scalar | list[float]


class JsonLines:
    """The tracker: scalars into ``metrics.jsonl``, routing by layer (mixtures of experts) into
    ``routing.jsonl``."""

    def __init__(self, run_dir: Path) -> None:
        self.metrics = MetricsLog(run_dir / "metrics.jsonl")
        self.routing = MetricsLog(run_dir / "routing.jsonl")

    def step(self, record: StepRecord) -> None:
        self.metrics.write(record.metrics)
        if record.layers:
            self.routing.write({"step": record.step, **record.layers})

    def truncate_after(self, step: int) -> list[str]:
        told = self.metrics.truncate_after(step)
        self.routing.truncate_after(step)
        return told

    def close(self) -> None:
        """Each line was written and closed."""


class MetricsLog:
    """Appends to ``path``. A line is on disk when ``write`` returns."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def write(self, metrics: Mapping[str, Value]) -> None:
        """Append one step. Numbers that are not finite become null: JSON has no NaN."""
        row = {
            name: [finite(one) for one in value] if isinstance(value, list) else finite(value)
            for name, value in metrics.items()
        }
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def truncate_after(self, step: int) -> list[str]:
        """Drop the rows of later steps, a last line that a kill left half written, and lines that are no
        rows. Returns a line for each thing that is not as it was written."""
        rows, garbage = sound_rows(self.path) if self.path.exists() else ([], [])
        kept = {int(row["step"]): row for row in rows if row["step"] <= step}
        if self.path.exists():
            write_text(self.path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in kept.values()))
        told = [f"{self.path}: dropped {len(garbage)} lines that are not rows of metrics"] if garbage else []
        return told + missing_steps(self.path, kept, step)


def finite(value: Scalar) -> Scalar:
    """The value as JSON can hold it; numpy scalars become Python's."""
    if value is None or isinstance(value, bool | str | int):
        return value
    number = value.item() if hasattr(value, "item") else value
    return number if not isinstance(number, float) or math.isfinite(number) else None


def read_metrics(path: Path) -> list[dict[str, Scalar]]:
    """All complete rows, in order. A half-written last line is left out; elsewhere it is a ValueError."""
    rows, garbage = sound_rows(path)
    if garbage:
        raise ValueError(f"{path}:{garbage[0]}: not a row of metrics")
    return rows


def sound_rows(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The rows of a file, in order, and the numbers of the lines that are none; a half-written last line
    counts as neither."""
    text = path.read_text(encoding="utf-8", errors="replace")
    rows, garbage = [], []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        else:
            garbage.append(number)
    return rows, garbage
