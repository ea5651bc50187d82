"""What keeps the metrics and rollouts of a run: the protocol of a tracker, the registry, and two trackers.

    jsonl         metrics.jsonl and routing.jsonl: one JSON object a step, durable as soon as it is written
    tensorboard   the scalars of each step, when the recipe asks for it
    rollouts      see ``depo.trackers.rollouts``

Trackers are registered in the entry-point group ``depo.trackers``: classes or functions that take ``run_dir``
and the recipe's options as keywords, and return a Tracker. JSON lines are always written; ``tracking`` in the
recipe says what else is.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from depo.errors import UserError
from depo.files import write_text, writing
from depo.plugins import build
from depo.recipe.schema.recipe import Tracking
from depo.types import Group

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

GROUP = "depo.trackers"

BUILT_IN = {
    "jsonl": "depo.trackers.tracker:JsonLines",
    "rollouts": "depo.trackers.rollouts:ParquetRollouts",
    "tensorboard": "depo.trackers.tracker:TensorBoard",
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


def open_trackers(tracking: Tracking, run_dir: Path) -> list[Tracker]:
    """The trackers that a recipe asks for. Raises UserError, naming the key, for one that cannot be had."""
    # JSON lines after the rollouts: a step in metrics.jsonl has its rollouts on disk.
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("tracking.rollouts", "rollouts", {"write": tracking.rollouts}),
        ("tracking", "jsonl", {}),
    ]
    if tracking.tensorboard:
        asked.append(("tracking.tensorboard", "tensorboard", {}))
    for index, plugin in enumerate(tracking.trackers):
        asked.append((f"tracking.trackers.{index}", plugin.name, plugin.options))
    trackers: list[Tracker] = []
    for key, name, options in asked:
        spec = {"type": "plugin", "name": name, "options": {"run_dir": run_dir, **options}}
        try:
            trackers.append(build(GROUP, BUILT_IN, spec))
        except ValueError as error:  # an unknown name, or options that it does not take
            raise UserError(f"{key}: {error}") from error
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


def missing_steps(where: Path, kept: Collection[int], step: int) -> list[str]:
    """A line that names the steps up to ``step`` that are not in ``kept``; none where all are there."""
    missing = sorted(set(range(1, step + 1)) - set(kept))
    if not missing:
        return []
    shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
    return [f"{where}: {len(missing)} of {step} steps are missing ({shown}); the run goes on without them"]


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


class TensorBoard:
    """The tracker: event files in ``tensorboard/``. Raises UserError when tensorboard is not installed."""

    def __init__(self, run_dir: Path) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401 - fails here, at start-up, rather than after a step
        except ImportError as error:
            raise UserError(
                'tracking.tensorboard: the package tensorboard is missing; pip install "depo[tensorboard]"'
            ) from error
        self.directory = run_dir / "tensorboard"
        self.writer: SummaryWriter | None = None

    def step(self, record: StepRecord) -> None:
        self.write(record.step, record.metrics)

    def write(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """One point per finite metric. Points that an interrupted run wrote at or after the first step
        written here are hidden (``purge_step``)."""
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.directory), purge_step=step)
        for name, value in metrics.items():
            if name != "step" and value is not None and math.isfinite(value):
                self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def truncate_after(self, step: int) -> None:
        """Nothing yet: the first step written hides what was written at or after it."""

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
