"""metrics.jsonl and routing.jsonl: one JSON object a step, durable as soon as it is written."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from depo.trackers.tracker import StepRecord

from depo.files import write_text

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

    def truncate_after(self, step: int) -> None:
        self.metrics.truncate_after(step)
        self.routing.truncate_after(step)

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
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def truncate_after(self, step: int) -> None:
        """Drop the rows of later steps, and a last line that a kill left half written."""
        if not self.path.exists():
            return
        kept = [row for row in read_metrics(self.path) if int(row["step"] or 0) <= step]
        write_text(self.path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in kept))


def finite(value: Scalar) -> Scalar:
    """The value as JSON can hold it; numpy scalars become Python's."""
    if value is None or isinstance(value, bool | str | int):
        return value
    number = value.item() if hasattr(value, "item") else value
    return number if not isinstance(number, float) or math.isfinite(number) else None


def read_metrics(path: Path) -> list[dict[str, Scalar]]:
    """All complete rows, in order. A half-written last line is left out; elsewhere it is a ValueError."""
    lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not a JSON object") from error
    return rows
