"""Samples on disk as they come: ``samples/part_000017.parquet``, one row a completion with its verdict.

A part is written aside, fsynced and renamed, so that after a kill it is whole or absent: what is there need
not be generated again, and what is not there was never counted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from depo.errors import UserError
from depo.evaluation.evaluator import Row
from depo.files import file_aside
from depo.trackers.console import progress_bar
from depo.types import Rollout

SCHEMA = pa.schema(
    [
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("completion", pa.string(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("logprob", pa.float64(), nullable=False),  # of the whole completion, nats
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("correct", pa.bool_()),  # null: unscorable
        pa.field("unparseable", pa.bool_(), nullable=False),
        pa.field("components", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ],
    metadata={"depo_schema_version": "1"},
)


class SampleStore:
    """The samples of one evaluation in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for left_over in directory.glob(".part_*.partial"):
            left_over.unlink()
        self._next = 1 + max((int(file.stem.removeprefix("part_")) for file in self.parts()), default=0)

    def parts(self) -> list[Path]:
        return sorted(self.directory.glob("part_*.parquet"))

    def write(self, rows: Sequence[Row]) -> None:
        """Make rows durable as the next part; the directory is made for the first."""
        with file_aside(self.directory / f"part_{self._next:06d}.parquet") as aside:
            pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), aside, compression="zstd")
        self._next += 1

    def done(self) -> dict[str, set[int]]:
        """Sample indices on disk by benchmark/key, as requests name the problem."""
        found: dict[str, set[int]] = {}
        for row in self.rows(("benchmark", "key", "sample_index")):
            found.setdefault(f"{row['benchmark']}/{row['key']}", set()).add(row["sample_index"])
        return found

    def rows(self, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """All rows, in the order of benchmark, key and sample index. Raises UserError for a broken file."""
        tables = []
        for file in self.parts():
            try:
                tables.append(pq.read_table(file, columns=None if columns is None else list(columns)))
            except (OSError, pa.ArrowException) as error:
                raise UserError(
                    f"{file}: cannot be read ({str(error).splitlines()[0]}); remove it and add --resume"
                ) from error
        if not tables:
            return []
        rows = pa.concat_tables(tables).to_pylist()
        return sorted(rows, key=lambda row: (row["benchmark"], row["key"], row["sample_index"]))


FLUSH_SAMPLES = 256
FLUSH_SECONDS = 10.0
"""A part is written when so many samples or seconds have gathered: the most that a kill can lose."""


@dataclass
class SampleWriter:
    """Takes the rollouts of an evaluation: judges them and makes them durable, `FLUSH_SAMPLES` at a time, or
    what there is after `FLUSH_SECONDS`."""

    judge: Callable[[Sequence[Rollout]], Sequence[Row]]
    store: SampleStore
    progress: EvalProgress
    waiting: list[Rollout] = field(default_factory=list)
    flushed: float = field(default_factory=time.monotonic)

    def write(self, rollouts: Iterable[Rollout]) -> None:
        """All of an evaluation's rollouts, as they finish."""
        for rollout in rollouts:
            self.waiting.append(rollout)
            self.flush_if_due()
        self.flush()

    def heartbeat(self, tokens: int) -> None:
        """The engine is alive: it has decoded so many tokens more. What waits need not wait for another
        sample to end."""
        self.progress.decoded(tokens)
        self.flush_if_due()

    def flush_if_due(self) -> None:
        if len(self.waiting) >= FLUSH_SAMPLES or time.monotonic() - self.flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            rows = self.judge(self.waiting)
            self.store.write(rows)
            self.progress.advance(len(rows))
            self.waiting = []
        self.flushed = time.monotonic()


LINE_EVERY = 30.0
"""Seconds between two lines where stdout is no terminal."""


class EvalProgress:
    """How far an evaluation is: a bar with ETA on a terminal, a line now and then elsewhere, nothing when
    ``quiet``. Counts samples up to ``total``; ``done`` of them are there already. Tokens are a sign of life
    while long samples are under way."""

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

    def __exit__(self, *error: object) -> None:
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
