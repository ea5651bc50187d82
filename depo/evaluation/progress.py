"""How far an evaluation is: a bar with ETA on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.progress import Progress

from depo.console import progress_bar

LINE_EVERY = 30.0
"""Seconds between two lines where stdout is no terminal."""


class EvalProgress:
    """Counts samples up to ``total``; ``done`` of them are there already. Tokens are a sign of life while
    long samples are under way. Silent when ``quiet``."""

    def __init__(self, name: str, total: int, done: int, quiet: bool) -> None:
        self.name, self.total, self.done, self.first, self.quiet = name, total, done, done, quiet
        self.tokens = 0
        self.started = self.last_line = time.monotonic()
        self.bar: Progress | None = None

    def __enter__(self) -> Self:
        if sys.stdout.isatty() and not self.quiet:
            self.bar = progress_bar()
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=self.total, completed=self.done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, samples: int) -> None:
        self.done += samples
        self.show()

    def decoded(self, tokens: int) -> None:
        """The engine has decoded so many tokens since it said so last."""
        self.tokens += tokens
        self.show()

    def show(self) -> None:
        drawn = f", {self.tokens:,} tokens" if self.tokens else ""
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, description=f"{self.name}{drawn}")
        elif not self.quiet and time.monotonic() - self.last_line >= LINE_EVERY:
            self.last_line = time.monotonic()
            print(
                f"{self.name}: {self.done:,} of {self.total:,} samples{drawn}, ETA {self.eta()}", flush=True
            )

    def eta(self) -> str:
        """h:mm:ss at the pace of this session; a dash before its first sample."""
        pace = (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)
        if not pace:
            return "-"
        seconds = round((self.total - self.done) / pace)
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
