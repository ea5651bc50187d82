"""What keeps the metrics and rollouts of a run: the protocol of a tracker, and the registry of trackers.

Trackers are registered in the entry-point group ``depo.trackers``: classes or functions that take ``run_dir``
and the recipe's options as keywords, and return a Tracker. JSON lines are always written; ``tracking`` in the
recipe says what else is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from depo.errors import UserError
from depo.plugins import build
from depo.recipe.schema.recipe import Tracking
from depo.types import Group

GROUP = "depo.trackers"

BUILT_IN = {
    "jsonl": "depo.trackers.jsonl:JsonLines",
    "rollouts": "depo.trackers.rollouts:ParquetRollouts",
    "tensorboard": "depo.trackers.tensorboard:TensorBoard",
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
