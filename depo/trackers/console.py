"""The live console: a progress bar with ETA and one line a step. Plain lines where stdout is no terminal.

Columns: mean reward; accuracy; share of zero-variance groups; the estimator's Brier skill (1 perfect, 0 no
better than the base rate) and calibration error (ECE) on the audit window; whether it selects or selection is
uniform; rollouts saved so far against uniform sampling, with sign; KL between learner and engine (nats per
token); generated tokens per second; seconds per phase, the estimator's beside the update.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from rich.console import Console as Terminal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

HEADER_EVERY = 20
"""Step lines between two headers."""

WIDTH = 120
"""Columns that a line may take."""


@dataclass(frozen=True, slots=True)
class Column:
    """``show`` gives at most ``width`` characters for a finite value."""

    title: str
    key: str
    width: int
    show: Callable[[float], str]

    def cell(self, metrics: Mapping[str, float | None]) -> str:
        value = metrics.get(self.key)
        shown = "-" if value is None or not math.isfinite(value) else self.show(value)
        return f"{shown:>{self.width}}"


def scaled(value: float, sign: str = "") -> str:
    """A count in at most six characters and a sign: 999, 12.3k, 4.56M."""
    for limit, divisor, suffix in ((10_000, 1, ""), (1_000_000, 1e3, "k"), (1_000_000_000, 1e6, "M")):
        if abs(value) < limit:
            digits = 0 if divisor == 1 else 1
            return f"{value / divisor:{sign}.{digits}f}{suffix}"
    return f"{value:{sign}.1e}"


def seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def signed_count(value: float) -> str:
    """A count with its sign; zero has none."""
    return scaled(value, "+") if round(value) else "0"


COLUMNS = (
    Column("reward", "reward", 7, lambda value: f"{value:.3f}"),
    Column("acc", "accuracy", 5, lambda value: f"{value:.3f}"),
    Column("zero", "zero_variance_share", 5, lambda value: f"{value:.0%}"),
    Column("brier", "calibration/brier_skill", 6, lambda value: f"{value:+.2f}"),
    Column("ece", "calibration/ece", 5, lambda value: f"{value:.3f}"),
    Column("gate", "selection/active", 7, lambda value: "select" if value else "uniform"),
    Column("saved", "saved", 8, signed_count),
    Column("kl", "mismatch_kl", 8, lambda value: f"{value:.1e}"),
    Column("tok/s", "tokens_per_second", 7, scaled),
    Column("sel", "seconds/select", 5, seconds),
    Column("gen", "seconds/generate", 5, seconds),
    Column("ver", "seconds/verify", 5, seconds),
    Column("upd", "seconds/update", 5, seconds),
    Column("est", "seconds/estimate", 4, seconds),
    Column("sync", "seconds/sync", 5, seconds),
    Column("step s", "seconds/step", 6, seconds),
)


def progress_bar() -> Progress:
    """Steps or samples done, of how many, and when the rest will be."""
    return bar_with(MofNCompleteColumn(), TimeElapsedColumn())


def download_bar() -> Progress:
    """Bytes of how many, how fast, and when the rest will be here."""
    return bar_with(DownloadColumn(), TransferSpeedColumn())


def bar_with(*columns: ProgressColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        *columns,
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=Terminal(markup=False, highlight=False, emoji=False),
    )


class Console:
    """Shows a run of ``total_steps`` steps. ``quiet`` leaves only what is said with ``always``.

    A context manager: the bar lives inside of it. Where stdout is not a terminal there is no bar and no
    control character.
    """

    def __init__(self, total_steps: int, quiet: bool, name: str) -> None:
        self.total_steps, self.quiet, self.name = total_steps, quiet, name
        self.step_width = max(len("step"), 2 * len(str(total_steps)) + 1)
        self.lines = 0
        self.progress: Progress | None = None

    def __enter__(self) -> Self:
        if sys.stdout.isatty() and not self.quiet:
            self.progress = progress_bar()
            self.progress.start()
            self.task = self.progress.add_task(self.name, total=self.total_steps)
        return self

    def __exit__(self, *error: object) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def step(self, metrics: Mapping[str, float | None]) -> None:
        """One line for a finished step; ``metrics`` as ``depo.train.metrics.step_metrics`` names them,
        missing or NaN ones are shown as "-"."""
        step = int(metrics["step"] or 0)
        if self.progress is not None:
            self.progress.update(self.task, completed=step)
        if self.quiet:
            return
        if self.lines % HEADER_EVERY == 0:
            self._print(self._line("step", [f"{column.title:>{column.width}}" for column in COLUMNS]))
        self.lines += 1
        self._print(self._line(f"{step}/{self.total_steps}", [column.cell(metrics) for column in COLUMNS]))

    def say(self, text: str, always: bool = False) -> None:
        """A line of its own; with ``always`` even when the console is quiet."""
        if always or not self.quiet:
            self._print(text)

    def _line(self, first: str, cells: list[str]) -> str:
        return " ".join([f"{first:>{self.step_width}}", *cells])

    def _print(self, text: str) -> None:
        if self.progress is not None:
            self.progress.console.print(text, soft_wrap=True)
        else:
            print(text, flush=True)
