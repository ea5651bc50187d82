"""Samples on disk as they come: ``samples/part_000017.parquet``, one row a completion with its verdict.

A part is written aside, fsynced and renamed, so that after a kill it is whole or absent: what is there need
not be generated again, and what is not there was never counted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from depo.errors import UserError

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

Row = Mapping[str, Any]


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
        self.directory.mkdir(parents=True, exist_ok=True)
        final = self.directory / f"part_{self._next:06d}.parquet"
        aside = self.directory / f".{final.name}.partial"
        with aside.open("wb") as file:
            pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(final)
        self._next += 1

    def done(self) -> dict[tuple[str, str], set[int]]:
        """Sample indices on disk by (benchmark, problem key)."""
        found: dict[tuple[str, str], set[int]] = {}
        for row in self.rows(("benchmark", "key", "sample_index")):
            found.setdefault((row["benchmark"], row["key"]), set()).add(row["sample_index"])
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
