"""A finished run's files, made up by hand: short enough to do the sums by hand as well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROWS: list[dict[str, Any]] = [
    {"step": 1, "generated/rollouts": 16, "groups": 4, "effective_groups": 1}
    | {"reward": 0.1, "seconds/step": 2.0}
    | {"selection/active": 0.0, "optimizer_steps": 1.0, "mismatch_kl": 0.2, "completion_tokens": 10.0},
    {"step": 2, "generated/rollouts": 48, "groups": 8, "effective_groups": 4}
    | {"reward": 0.3, "seconds/step": 3.0}
    | {"selection/active": 1.0, "optimizer_steps": 1.0, "mismatch_kl": 0.4, "eval/all": 0.5},
    {"step": 3, "generated/rollouts": 80, "groups": 8, "effective_groups": 4}
    | {"reward": None, "seconds/step": 4.0}
    | {"selection/active": 1.0, "optimizer_steps": 0.0},
]
SUMMARY: dict[str, Any] = {
    "steps": 3,
    "eval": {"before": {"all": 0.25}, "after": {"all": 0.75}},
    "rollouts": {"generated": 80, "saved": 12.5, "saved_interval": [-3.0, 40.0]},
    "tokens": {"generated": 900},
    "groups": {
        "effective": 9,
        "effective_ratio": 0.45,
        "rollouts_per_effective_group": 80 / 9,
        "tokens_per_effective_group": 100.0,
        "uniform": {"drawn": 6, "informative": 2, "rate": 1 / 3},
    },
    "prompts": {"seen": 14, "pool": 20},
    "selection": {"calibration/groups": 6.0, "calibration/auroc": 0.75, "coverage/starvation": 0.5},
    "seconds": {"generate": 5.0, "steps": 9.0, "wall": 20.0},
}


@pytest.fixture
def record() -> Callable[[Path], Path]:
    """Writes them into a directory, which it returns."""

    def write(directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "summary.json").write_text(json.dumps(SUMMARY))
        (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        return directory

    return write
