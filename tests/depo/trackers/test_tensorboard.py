"""TensorBoard: what its own reader finds in the event files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from depo.errors import UserError
from depo.trackers.dashboards import TensorBoard
from depo.trackers.tracker import StepRecord


def record(step: int, **metrics: float | None) -> StepRecord:
    return StepRecord(step, {"step": step, **metrics}, [], {})


def scalars(directory: Path, name: str) -> list[tuple[int, float]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(directory / "tensorboard"))
    events.Reload()
    return [(event.step, round(event.value, 6)) for event in events.Scalars(name)]


def test_finite_metrics_are_plotted_over_steps(tmp_path: Path) -> None:
    log = TensorBoard(tmp_path)
    log.step(record(1, reward=0.5, ece=float("nan"), saved=None))
    log.step(record(2, reward=0.75, ece=0.1))
    log.close()
    assert scalars(tmp_path, "reward") == [(1, 0.5), (2, 0.75)]
    assert scalars(tmp_path, "ece") == [(2, 0.1)]


def test_a_resumed_run_hides_the_points_it_repeats(tmp_path: Path) -> None:
    first = TensorBoard(tmp_path)
    for step in (1, 2, 3):
        first.step(record(step, reward=0.0))
    first.close()
    resumed = TensorBoard(tmp_path)
    resumed.step(record(2, reward=1.0))
    resumed.close()
    assert scalars(tmp_path, "reward") == [(1, 0.0), (2, 1.0)]


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(
        UserError, match=r'tensorboard cannot be imported .*; pip install "depo-rl\[tensorboard\]"'
    ):
        TensorBoard(tmp_path)
