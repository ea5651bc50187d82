"""The scalars of each step for TensorBoard, when the recipe asks for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from depo.errors import UserError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from depo.trackers.tracker import StepRecord


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
