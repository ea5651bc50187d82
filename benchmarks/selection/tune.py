"""The same tuning effort for every arm: learning rates tried on a family of problems that is never reported.

An arm's measure is the mean of its smoothed accuracy over the horizon (area under the curve): it asks for
speed and for where it ends. Seeds begin at 100: no policy is shared with a reported one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import coded
from benchmarks.selection.arms import ARMS, World
from benchmarks.selection.curve import Curve, read_curve
from benchmarks.selection.plan import Cell
from depo.report.document import UNKNOWN, Code, Document, Number, Paragraph, Table
from depo.report.provenance import provenance_blocks

RATES = (0.5, 1.0, 2.0)
"""As multiples of the world's learning rate, 1e-4 where it has none."""
SEEDS = (100, 101)
PASSES_SHARE = 0.25
"""Of what is reported."""
POOL = "mixed"


def rates_of(world: World) -> list[float]:
    return [rate * (world.lr or 1e-4) for rate in RATES]


def tuning_cells(arms: Sequence[str], seeds: Sequence[int], horizon: int, world: World) -> list[Cell]:
    return [
        Cell(POOL, seed, f"{name}-lr-{lr:g}", replace(ARMS[name], lr=lr), horizon)
        for seed in seeds
        for name in arms
        for lr in rates_of(world)
    ]


def tuning_document(
    cells: Sequence[Cell], where: Sequence[Path], arms: Sequence[str], horizon: int, world: World
) -> dict[str, Any]:
    """{"arms": {NAME: {"settings": …, "rates": {LR: {SEED: curve}}}}} of what is finished."""
    found: dict[str, Any] = {
        name: {"settings": asdict(ARMS[name]), "rates": {f"{lr:g}": {} for lr in rates_of(world)}}
        for name in arms
    }
    for cell, path in zip(cells, where, strict=True):
        if (path / "summary.json").exists():
            name = cell.name.rpartition("-lr-")[0]
            found[name]["rates"][f"{cell.arm.lr:g}"][str(cell.seed)] = read_curve(path).to_json()
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
        "Learning rates, tuned alike", [*provenance_blocks(result), Paragraph(coded(about)), table]
    )
