"""metrics.jsonl and routing.jsonl: one JSON object a step, durable as soon as it is written."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depo.trackers.tracker import StepRecord

from depo.files import write_text, writing

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
        rows, garbage = sound_rows(self.path)
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
    counts as neither. No file has no rows."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
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
