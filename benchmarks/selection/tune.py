"""The same tuning effort for every arm: learning rates and group sizes tried on a family of problems that is
never reported.

An arm's measure is the mean of its smoothed accuracy over the horizon (area under the curve): it asks for
speed and for where it ends. Seeds begin at 100: no policy is shared with a reported one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import coded
from benchmarks.selection.arms import ARMS, Arm, World
from benchmarks.selection.curve import Curve, read_curve
from benchmarks.selection.plan import Cell
from depo.report.document import UNKNOWN, Code, Document, Number, Paragraph, Table
from depo.report.provenance import provenance_blocks

RATES = (0.5, 1.0, 2.0)
SEEDS = (100, 101)
PASSES_SHARE = 0.25
"""Of what is reported."""
POOL = "mixed"


@dataclass(frozen=True)
class Trial:
    """An arm as it is tried: with another group size than its own (None: its own), and a learning rate."""

    name: str
    group_size: int | None
    lr: float

    @property
    def arm(self) -> Arm:
        own = ARMS[self.name]
        return replace(own, lr=self.lr, group_size=self.group_size or own.group_size)

    @property
    def row(self) -> str:
        return self.name if self.group_size is None else f"{self.name}-groups-{self.group_size}"

    @property
    def run(self) -> str:
        return f"{self.row}-lr-{self.lr:g}"


def trials(
    arms: Sequence[str],
    world: World,
    sizes: Sequence[int] | None = None,
    rates: Sequence[float] | None = None,
) -> list[Trial]:
    """All that is tried: by default every arm with its own group size, at three learning rates. ``rates`` are
    multiples of the world's learning rate, 1e-4 where it has none."""
    return [
        Trial(name, None if size == ARMS[name].group_size else size, rate * (world.lr or 1e-4))
        for name in arms
        for size in sizes or (None,)
        for rate in rates or RATES
    ]


def tuning_cells(tried: Sequence[Trial], seeds: Sequence[int], horizon: int) -> list[Cell]:
    return [Cell(POOL, seed, trial.run, trial.arm, horizon) for seed in seeds for trial in tried]


def tuning_document(
    tried: Sequence[Trial], cells: Sequence[Cell], where: Sequence[Path], horizon: int
) -> dict[str, Any]:
    """{"arms": {NAME: {"settings": …, "rates": {LR: {SEED: curve}}}}} of what is finished."""
    found: dict[str, Any] = {}
    for trial in tried:
        row = found.setdefault(trial.row, {"settings": asdict(trial.arm), "rates": {}})
        row["rates"][f"{trial.lr:g}"] = {}
    by_run = {trial.run: trial for trial in tried}
    for cell, path in zip(cells, where, strict=True):
        if (path / "summary.json").exists():
            trial = by_run[cell.name]
            found[trial.row]["rates"][f"{trial.lr:g}"][str(cell.seed)] = read_curve(path).to_json()
    return {"horizon": horizon, "pool": POOL, "arms": found}


def area(curve: Curve, horizon: int) -> float:
    """Mean of the smoothed accuracy over [0, horizon] rollouts."""
    grid = np.linspace(0, horizon, 201)
    return float(np.interp(grid, curve.cost_K["rollouts"], curve.smooth_K).mean())


def report(result: Mapping[str, Any]) -> Document:
    horizon = result["horizon"]
    rates = list(next(iter(result["arms"].values()))["rates"])
    rows = []
    for name, arm in result["arms"].items():
        areas = {
            rate: float(np.mean([area(Curve.from_json(curve), horizon) for curve in seeds.values()]))
            for rate, seeds in arm["rates"].items()
            if seeds
        }
        best = max(areas, key=areas.__getitem__, default=UNKNOWN)
        rows.append([Code(name), *(Number(areas.get(rate), ".4f") for rate in rates), best])
    about = (
        f"Pool `{result['pool']}` of the family for tuning, {horizon:,} rollouts; mean smoothed held-out "
        "accuracy over the horizon, mean over seeds. Nothing of this family is reported."
    )
    table = Table(["arm", *(f"lr {rate}" for rate in rates), "best"], rows)
    return Document(
        "Learning rates and group sizes, tuned alike",
        [*provenance_blocks(result), Paragraph(coded(about)), table],
    )
