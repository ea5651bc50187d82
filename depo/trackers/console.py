"""The live console of ``depo train`` and ``depo watch``: a legend, one line a step, and what a long phase is
busy with.

On a terminal that stands in a bar with ETA; elsewhere it is a line whenever nothing was said for a while.
A column is shown where it can vary: what tells of selection is left out where a recipe draws uniformly. Some
are shown on wide terminals alone.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Event, Thread
from typing import Self, TypeVar

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

from depo.errors import WIDTH, fitted
from depo.recipe.schema import Recipe

WIDE = 120
"""Columns of a terminal from which on there is room for all."""

HEADER_EVERY = 20
"""Step lines between two headers."""

UNIFORM_GROUPS = 64
"""The newest so many uniformly drawn groups give the accuracy shown: a step's audit alone is a handful."""

HEARTBEAT = 15.0
"""Seconds of silence after which a line says what the run is busy with, where stdout is no terminal; later on
after a quarter of what that has taken."""

Item = TypeVar("Item")
Metrics = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Column:
    """``show`` gives at most ``width`` characters for a finite value of ``key``; ``wide``: only where there
    is room."""

    title: str
    key: str
    width: int
    show: Callable[[float], str]
    legend: str = ""
    wide: bool = False

    def cell(self, metrics: Metrics) -> str:
        value = metrics.get(self.key)
        shown = "-" if value is None or not math.isfinite(value) else self.show(value)
        return f"{shown:>{self.width}}"


def scaled(value: float, sign: str = "") -> str:
    """A count in at most six characters and a sign: 999, 12.3k, 4.56M."""
    for limit, divisor, suffix in ((9_999.5, 1, ""), (999_950, 1e3, "k"), (999_950_000, 1e6, "M")):
        if abs(value) < limit:
            digits = 0 if divisor == 1 else 1
            return f"{value / divisor:{sign}.{digits}f}{suffix}"
    return f"{value:{sign}.1e}"


def seconds(value: float) -> str:
    return f"{value:.2f}s" if value < 10 else f"{value:.1f}s" if value < 100 else f"{value:.0f}s"


def signed_count(value: float) -> str:
    """A count with its sign; zero has none."""
    return scaled(value, "+") if round(value) else "0"


ACCURACY = "console/accuracy"

COLUMNS = (
    Column(
        "reward",
        "reward",
        6,
        lambda value: f"{value:.3f}"[:6],
        "mean of this step's rollouts; it jumps when prompts begin to be chosen",
    ),
    Column(
        "accuracy",
        ACCURACY,
        8,
        lambda value: f"{value:.3f}",
        f"on the last {UNIFORM_GROUPS} uniformly drawn prompts: this shows learning",
    ),
    Column(
        "useful",
        "informative_share",
        6,
        lambda value: f"{value:.0%}",
        "informative groups: only these teach",
    ),
    Column(
        "skill",
        "calibration/skill",
        5,
        lambda value: f"{value:+.2f}",
        "of the estimator, 1 is perfect; prompts are chosen while it is above 0",
    ),
    Column(
        "prompts",
        "selection/active",
        7,
        lambda value: "chosen" if value else "uniform",
        "chosen by the estimator, or drawn uniformly while it has no skill",
    ),
    Column(
        "saved",
        "saved",
        7,
        signed_count,
        "rollouts that uniform sampling would have needed beyond those used",
    ),
    Column("used", "generated/rollouts", 6, scaled, "rollouts generated since the start", wide=True),
    Column("length", "completion_tokens", 6, scaled, "tokens of a completion, mean", wide=True),
    Column("cut", "truncated_share", 4, lambda value: f"{value:.0%}", "at the token limit", wide=True),
    Column(
        "mismatch",
        "mismatch_kl",
        8,
        lambda value: f"{value:.1e}",
        "engine against learner, KL in nats a token",
        wide=True,
    ),
    Column("tok/s", "tokens_per_second", 6, scaled, "tokens generated a second, over the whole step"),
    Column("time", "seconds/step", 6, seconds, "of the step; then the part of it that took longest"),
)

SELECTION = ("skill", "prompts", "saved")


def columns_for(recipe: Recipe) -> tuple[Column, ...]:
    """The columns that can vary under a recipe."""
    hidden = set(SELECTION) if recipe.selection.type == "uniform" else set()
    if recipe.rollout.engine != "vllm":  # the engine works on the learner's own weights
        hidden.add("mismatch")
    return tuple(column for column in COLUMNS if column.title not in hidden)


def slowest_part(metrics: Metrics) -> str:
    """The phase that took most of a step, and its share."""
    parts = {
        key.removeprefix("seconds/"): value
        for key, value in metrics.items()
        if key.startswith("seconds/") and key != "seconds/step" and value is not None
    }
    whole = metrics.get("seconds/step")
    if not parts or not whole:
        return "-"
    phase = max(parts, key=parts.__getitem__)
    return f"{phase} {min(parts[phase] / whole, 0.99):.0%}"


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

    A context manager: the bar, or the thread that breaks a long silence, lives inside of it. Where stdout is
    not a terminal there is no bar and no control character.
    """

    def __init__(
        self,
        total_steps: int,
        quiet: bool,
        name: str,
        columns: Sequence[Column] = COLUMNS,
        width: int | None = None,
    ) -> None:
        """``width`` in characters: the terminal's when None, `WIDTH` where there is none."""
        if width is None:
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
        self.total_steps, self.quiet, self.name = total_steps, quiet, name
        self.columns = [column for column in columns if width >= WIDE or not column.wide]
        self.step_width = max(len("step"), 2 * len(str(total_steps)) + 1)
        self.lines = 0
        self.uniform: deque[tuple[float, float]] = deque()  # (groups, their accuracy), newest last
        self.busy = self.done = ""
        self.since = self.spoke = time.monotonic()
        self.over = Event()
        self.progress: Progress | None = None
        self.heart: Thread | None = None

    def __enter__(self) -> Self:
        if sys.stdout.isatty() and not self.quiet:
            self.progress = progress_bar()
            self.progress.start()
            self.task = self.progress.add_task(self.name, total=self.total_steps)
        elif not self.quiet:
            self.heart = Thread(target=self._beat, daemon=True)
            self.heart.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        if self.heart is not None:
            self.heart.join()
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def step(self, metrics: Metrics) -> None:
        """One line for a finished step; ``metrics`` as ``depo.train.metrics.step_metrics`` names them,
        missing or NaN ones are shown as "-"."""
        step = int(metrics["step"] or 0)
        if self.progress is not None:
            self.progress.update(self.task, completed=step)
        if self.quiet:
            return
        if not self.lines:
            self._legend()
        if self.lines % HEADER_EVERY == 0:
            titles = [f"{column.title:>{column.width}}" for column in self.columns]
            self._print(self._line("step", [*titles, "slowest part"]))
        self.lines += 1
        empty = metrics.get("uninformative_share")
        shown = dict(metrics) | {ACCURACY: self.accuracy(metrics)}
        shown["informative_share"] = None if empty is None else 1 - empty
        cells = [column.cell(shown) for column in self.columns]
        self._print(self._line(f"{step}/{self.total_steps}", [*cells, f"{slowest_part(metrics):>12}"]))

    def say(self, text: str, always: bool = False) -> None:
        """A line of its own; with ``always`` even when the console is quiet."""
        if always or not self.quiet:
            self._print(text)

    def doing(self, what: str, done: str = "") -> None:
        """What the run is busy with from now on, and how far it is with that."""
        if what != self.busy:
            self.since = time.monotonic()
        self.busy, self.done = what, done
        if self.progress is not None:
            self.progress.update(self.task, description=f"{self.name}: {what} {done}".rstrip())

    def counted(self, what: str, items: Iterable[Item], total: int) -> Iterator[Item]:
        """``items`` as they come, told as "WHAT 12/32"."""
        self.doing(what, f"0/{total:,}")
        for count, item in enumerate(items, start=1):
            self.doing(what, f"{count:,}/{total:,}")
            yield item

    def _beat(self) -> None:
        while not self.over.wait(min(HEARTBEAT, 1.0)):
            now = time.monotonic()
            if self.busy and now - self.spoke >= max(HEARTBEAT, (now - self.since) / 4):
                self._print(f"... {self.busy} {self.done}".rstrip() + f", {now - self.since:.0f} s")

    def accuracy(self, metrics: Metrics) -> float | None:
        """Over the newest uniformly drawn groups, this step's among them; None before the first."""
        groups, accuracy = metrics.get("uniform/groups"), metrics.get("uniform/accuracy")
        if groups and accuracy is not None and math.isfinite(accuracy):
            self.uniform.append((groups, accuracy))
        known = sum(groups for groups, _ in self.uniform)
        while known and known - self.uniform[0][0] >= UNIFORM_GROUPS:
            known -= self.uniform.popleft()[0]
        return sum(groups * accuracy for groups, accuracy in self.uniform) / known if known else None

    def remember(self, rows: Iterable[Metrics]) -> None:
        """The steps before a resume: the accuracy shown goes on where it was."""
        for row in rows:
            self.accuracy(row)

    def _legend(self) -> None:
        for column in self.columns:
            if column.legend:
                self._print(f"{column.title:<8} {column.legend}")

    def _line(self, first: str, cells: list[str]) -> str:
        return " ".join([f"{first:>{self.step_width}}", *cells])

    def _print(self, text: str) -> None:
        self.spoke = time.monotonic()
        if self.progress is not None:
            self.progress.console.print(fitted(text), soft_wrap=True)
        else:
            print(fitted(text), flush=True)
