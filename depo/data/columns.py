"""Tables with named columns, dots descending into structs, read row by row.

Rows come as tuples of the columns asked for, so that a large Arrow table is never turned into Python
objects whole, nor columns that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from depo.config import Columns
from depo.errors import UserError

PROMPT_NAMES = ("prompt", "question", "problem")
ANSWER_NAMES = ("answer", "ground_truth", "reward_model.ground_truth", "solution")
BATCH_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Table:
    """``columns`` in dotted notation, structs before their fields; ``rows(names)`` yields value tuples."""

    name: str
    columns: Sequence[str]
    rows: Callable[[Sequence[str]], Iterator[tuple[Any, ...]]]
    length: int


def arrow_table(name: str, table: pa.Table) -> Table:
    """A Table over an Arrow table, converted batch by batch."""
    columns: list[str] = []
    for field in table.schema:
        columns += struct_paths(field.name, field.type)

    def rows(names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        chosen = pa.table(
            [arrow_column(table, name) for name in names], names=[str(i) for i in range(len(names))]
        )
        for batch in chosen.to_batches(max_chunksize=BATCH_ROWS):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    return Table(name, columns, rows, table.num_rows)


def struct_paths(name: str, kind: pa.DataType) -> list[str]:
    if not pa.types.is_struct(kind):
        return [name]
    return [name] + [path for field in kind for path in struct_paths(f"{name}.{field.name}", field.type)]


def arrow_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column by dotted name; a column whose own name holds the dots comes first."""
    if name in table.column_names:
        return table[name]
    top, *fields = name.split(".")
    return pc.struct_field(table[top], fields)


def object_table(name: str, objects: Sequence[dict[str, Any]]) -> Table:
    """A Table over JSON objects, whose keys and types may differ from row to row."""
    columns: dict[str, None] = {}
    for row in objects:
        note_paths(row, "", columns)

    def rows(names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for row in objects:
            yield tuple(object_value(row, name) for name in names)

    return Table(name, list(columns), rows, len(objects))


def note_paths(row: dict[str, Any], prefix: str, columns: dict[str, None]) -> None:
    for key, value in row.items():
        columns.setdefault(prefix + key)
        if isinstance(value, dict):
            note_paths(value, f"{prefix}{key}.", columns)


def object_value(row: Any, name: str) -> Any:
    """A value by dotted name; None where the row does not have it."""
    if not isinstance(row, dict):
        return None
    if name in row:
        return row[name]
    top, _, rest = name.partition(".")
    return object_value(row.get(top), rest) if rest else None


def chosen_columns(table: Table, columns: Columns, where: str) -> tuple[str, str, str | None]:
    """Names of the prompt, answer and prior columns. ``where`` is the recipe key of the source.

    Raises UserError listing the columns there are.
    """
    prompt = find_column(table, columns.prompt, PROMPT_NAMES, f"{where}.columns.prompt")
    answer = find_column(table, columns.answer, ANSWER_NAMES, f"{where}.columns.answer")
    prior = columns.prior and find_column(table, columns.prior, (), f"{where}.columns.prior")
    return prompt, answer, prior


def find_column(table: Table, asked: str | None, usual: Sequence[str], where: str) -> str:
    there_are = f"{table.name} has {', '.join(table.columns)}"
    if asked is not None:
        if asked in table.columns:
            return asked
        raise UserError(f"{where}: no column {asked!r}; {there_are}")
    for name in usual:
        if name in table.columns:
            return name
    raise UserError(f"{where}: no column is called {' or '.join(usual)}; {there_are}; name the one to use")
